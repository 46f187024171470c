//! A sandbox's network: a namespace with a tap for the guest, a link to the host, and rules that let the guest reach public
//! addresses only.
//!
//! ```text
//! guest eth0 169.254.0.21 -- tap0 169.254.0.22 [namespace] up0 -- wv<id><n> [host] -- masquerade -- uplink
//! ```
//! No host address belongs to a guest: the agent opens its own sockets inside the namespace.

mod plan;
mod slots;

pub use plan::Egress;
pub use slots::{NetworkError, Slot, Slots, forward_on_host, try_out};
