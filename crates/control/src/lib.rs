//! The control plane as a library: REST, scheduling, and the background work that makes wishes true.
//!
//! The path of a call: [`rest`] -> [`service`] -> [`scheduler`] and [`fleet`], with the truth in `wrenn_store`.
//! FeedEntry comes back through [`tasks`]. Nothing calls rest or tasks.
//!
//! Must never: speak SQL (that is `wrenn_store`), interpret a guest's bytes beyond envd's protocol, or hold a state
//! that a restart would lose.

pub mod actor;
pub mod answer;
pub mod auth;
pub mod ca;
pub mod client_address;
pub mod config;
mod connection;
pub mod context;
pub mod error;
mod error_chain;
pub mod extension;
pub mod fault;
pub mod fleet;
#[doc(hidden)]
pub mod fuzz;
pub mod mail;
pub mod notification_channels;
pub mod oauth;
mod outbound_http;
mod panics;
pub mod passwords;
mod percent;
mod process_limits;
pub mod proxy;
mod queue;
mod random;
pub mod rest;
mod revocable_body;
pub mod scheduler;
mod sent_body;
pub mod server;
pub mod service;
pub mod state;
mod sync;
pub mod tasks;

pub use config::Config;
pub use context::Context;
pub use extension::Extension;
pub use server::Server;
