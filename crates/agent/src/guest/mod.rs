//! The way to one guest: sockets opened inside its namespace, the wait until envd is ready, the relay for others, tunnels to its ports.

mod dial;
mod ports;
mod ready;
mod relay;

pub use dial::{GuestClient, GuestError};
pub use ports::tunnel;
pub use ready::{Beacon, Greeting, go_on, prepare, rehearse, wait_ready};
pub use relay::relay;
