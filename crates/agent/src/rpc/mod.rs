//! What the control plane can ask: the host service, and the relay to guests. Both behind the host's token.

mod error;
mod host;
mod listen;
mod server;

pub use server::{DESCRIPTORS_MAX, serve};
