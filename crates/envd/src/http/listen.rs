//! The accept loop: HTTP/1.1, bounded in connections, without Nagle's delay.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;
use wrenn_http::linger;

/// Open connections. The relay holds at most 256 calls; the rest is for programs in the guest.
pub const CONNECTIONS_MAX: usize = 1024;
/// A client that opened a connection says what it wants within this.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(60);
/// Bytes of a connection's read buffer: uploads come in pieces of this size.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// After accept failed (out of descriptors): trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` until `stop` turns true. Connections under way are dropped with it.
pub async fn listen(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            // A stop outranks a newcomer.
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = socket.set_nodelay(true);
        let service = router.clone().map_request(|request: hyper::Request<Incoming>| linger(request).map(Body::new));
        let mut stop = stop.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_WAIT_MAX)
                .max_buf_size(READ_BUFFER_BYTES)
                .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
                .with_upgrades();
            tokio::select! {
                _ = connection => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            drop(permit);
        });
    }
}
