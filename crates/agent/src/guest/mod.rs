//! The way to one guest: sockets opened inside its network, the wait until envd is ready, the relay for others, tunnels to its ports.

mod dial;
mod host_pool;
mod ports;
mod ready;
mod relay;
mod tunnels;

pub use dial::{GuestClient, GuestError};
pub use host_pool::HostPool;
pub use ports::tunnel;
pub use ready::{InitRequest, ReadyListener, freeze, notify_resumed, prepare_capture, wait_ready, warm_up};
pub use relay::relay;
