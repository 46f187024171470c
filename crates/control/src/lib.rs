//! The control plane as a library: REST, scheduling, and the background work that makes wishes true.
//!
//! The path of a call: [`rest`] -> [`service`] -> [`scheduler`] and [`fleet`], with the truth in `wrenn_store`.
//! News comes back through [`tasks`]. Nothing calls rest or tasks.
//!
//! Must never: speak SQL (that is `wrenn_store`), interpret a guest's bytes beyond envd's protocol, or hold a state
//! that a restart would lose.

pub mod auth;
pub mod ca;
mod causes;
pub mod channels;
pub mod config;
pub mod context;
pub mod extension;
pub mod fault;
pub mod fleet;
pub mod mail;
pub mod oauth;
pub mod proxy;
pub mod rest;
pub mod scheduler;
pub mod server;
pub mod service;
mod site;
pub mod tasks;

pub use config::Config;
pub use context::Context;
pub use extension::Extension;
pub use server::Server;
