//! Sockets that reach one guest and nothing else.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use tokio::net::TcpSocket;
use wrenn_contract::guest::{GATEWAY_ADDR, GUEST_ADDR, READY_PORT};
use wrenn_linux::netns::Netns;

/// The network of one guest, as far as the agent's own connections need it. Its functions may block for a moment.
pub trait Sockets: Send + Sync {
    /// Makes a socket from which [`Sockets::guest`] can be reached.
    ///
    /// # Errors
    /// The network is gone or no socket can be had.
    fn tcp(&self) -> io::Result<TcpSocket>;

    /// Makes the socket on which the guest says that it is ready, listening.
    ///
    /// # Errors
    /// The network is gone or its address is taken.
    fn ready(&self) -> io::Result<UdpSocket>;

    /// Returns the address of a port of the guest.
    fn guest(&self, port: u16) -> SocketAddr;
}

impl Sockets for Netns {
    fn tcp(&self) -> io::Result<TcpSocket> {
        self.run(TcpSocket::new_v4)
    }

    fn ready(&self) -> io::Result<UdpSocket> {
        self.run(|| UdpSocket::bind(SocketAddr::from((GATEWAY_ADDR, READY_PORT))))
    }

    fn guest(&self, port: u16) -> SocketAddr {
        SocketAddr::from((GUEST_ADDR, port))
    }
}
