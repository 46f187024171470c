//! What every HTTP/1 server of ours does the same way: the control plane, the agent, envd.
//!
//! - [`linger`]: a refusal reaches its client, though it is still sending.
//!
//! Must never: know a route, or what a body means.

mod linger;

pub use linger::{Lingering, linger};
