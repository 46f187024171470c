//! What the control plane can ask: the host service, and the relay to guests. Both behind the host's token.

mod error;
mod host;
mod server;

pub use server::serve;
