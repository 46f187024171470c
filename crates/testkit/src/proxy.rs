//! A TCP proxy in front of a socket, to be cut and mended in the middle of a test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Where connections go.
#[derive(Debug, Clone)]
pub enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// The proxy. Cutting closes every connection and the listening port.
#[derive(Debug)]
pub struct CutProxy {
    addr: SocketAddr,
    target: Target,
    /// Has the port and never listens: while it is cut nobody else is given it.
    _port: TcpSocket,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl CutProxy {
    /// Listens on a free loopback port.
    pub async fn start(target: Target) -> Self {
        let port = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let addr = port.local_addr().expect("bound");
        let proxy = Self { addr, target, _port: port, running: Mutex::new(None) };
        proxy.mend().await;
        proxy
    }

    /// In front of the test PostgreSQL.
    pub async fn before_postgres() -> Self {
        let services = tokio::task::spawn_blocking(crate::services::shared).await.expect("services");
        Self::start(Target::Unix(services.postgres_socket())).await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes everything; new connections are refused.
    pub async fn cut(&self) {
        let running = self.running.lock().expect("no panic while held").take();
        if let Some(task) = running {
            task.abort();
            let _ = task.await;
        }
    }

    /// Listens again on the same port.
    pub async fn mend(&self) {
        let listener = bound(self.addr).listen(1024).expect("the port is still ours");
        let task = tokio::spawn(serve(listener, self.target.clone()));
        *self.running.lock().expect("no panic while held") = Some(task);
    }
}

/// Shares its port with others of these alone.
fn bound(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("may be shared");
    socket.bind(addr).expect("the port is ours");
    socket
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        if let Some(task) = self.running.lock().expect("no panic while held").take() {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, target: Target) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let target = target.clone();
        connections.spawn(async move {
            let _ = pass(client, target).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, target: Target) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    match target {
        Target::Unix(path) => {
            let mut server = UnixStream::connect(path).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
        Target::Tcp(addr) => {
            let mut server = TcpStream::connect(addr).await?;
            server.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_cut_refuses_everybody_and_is_given_to_nobody() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let proxy = CutProxy::start(Target::Tcp(server.local_addr().expect("bound"))).await;
        for _ in 0..2 {
            let client = TcpStream::connect(proxy.addr()).await.expect("it listens");
            server.accept().await.expect("it passes on");
            proxy.cut().await;
            assert!(TcpStream::connect(proxy.addr()).await.is_err());
            assert!(TcpListener::bind(proxy.addr()).await.is_err());
            drop(client);
            proxy.mend().await;
        }
    }
}
