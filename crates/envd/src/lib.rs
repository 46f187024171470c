//! envd: the agent inside every guest.
//!
//! One static binary on TCP port 49983: processes and files over Connect RPC, bulk data and control over plain HTTP.
//! Shapes are in `wrenn_contract::guest` and `wrenn_contract::proto`.
//!
//! - [`http`]: the listener, the token on every call, the plain routes.
//! - [`init`]: what a boot or a restore needs before the sandbox is handed out.
//! - [`process`]: processes, their input and output.
//! - [`freezer`]: processes stand still while the VM is captured and until a restored one is initialised.
//! - [`identity`]: who this sandbox is: token, default user, environment.
//! - [`files`] and [`filesystem`]: the guest's files, over HTTP and RPC; [`disk`] is what both stand on: acting as a user,
//!   paths, files replaced in one step. [`caller`] reads whom a call acts as.
//! - [`tunnel`]: connections to ports of the loopback, for the host's agent.
//! - [`usage`]: how busy the machine is. [`ports`]: `envd ports`.
//!
//! Must never: reach out to the network by itself, trust a caller without the token, or write a token to a log.

pub mod caller;
pub mod config;
pub mod disk;
pub mod files;
pub mod filesystem;
pub mod freezer;
pub mod http;
pub mod identity;
pub mod init;
pub mod ports;
pub mod process;
mod server;
mod state;
pub mod tunnel;
pub mod usage;

pub use server::serve;
pub use state::Envd;
