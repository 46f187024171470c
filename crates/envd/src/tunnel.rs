//! `GET /tunnel?port=N`: a raw connection to a port of the guest's own loopback, for the host's agent.
//!
//! Programs that listen on 127.0.0.1 or ::1 only cannot be dialled from outside; here the connection is made from inside, on demand,
//! so nothing has to watch for listeners. Behind the token like every other route. Connections belong to one life of the VM: a
//! copy that starts anew drops those it inherited, because their other ends are elsewhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wrenn_contract::guest::{PORT, TUNNEL_PROTOCOL};
use wrenn_domain::limits::{PORT_BUFFER_BYTES, PORT_CONNECTIONS_MAX, PORT_DIAL_MAX};

use crate::http::Reply;

/// The tunnels of one envd.
pub struct Tunnels {
    permits: Arc<Semaphore>,
    life: Mutex<CancellationToken>,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(PORT_CONNECTIONS_MAX)), life: Mutex::default() }
    }
}

impl Tunnels {
    /// A new life begins: connections of the last one lead nowhere.
    pub fn begin_anew(&self) {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *life).cancel();
    }

    fn life(&self) -> CancellationToken {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Deserialize)]
pub struct Target {
    port: u16,
}

/// The route.
///
/// # Errors
/// No upgrade asked for, no such port, or too many tunnels.
pub async fn tunnel(
    State(tunnels): State<Arc<Tunnels>>,
    Query(Target { port }): Query<Target>,
    mut request: Request,
) -> Result<Response, Reply> {
    let protocol = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if !protocol.is_some_and(|name| name.eq_ignore_ascii_case(TUNNEL_PROTOCOL)) {
        return Err(Reply::new(StatusCode::UPGRADE_REQUIRED, format!("send Upgrade: {TUNNEL_PROTOCOL}")));
    }
    // envd itself listens on every address: nobody needs this way to it.
    if port == 0 || port == PORT {
        return Err(Reply::bad_request(format!("port {port} is not for tunnels")));
    }
    let permit = tunnels.permits.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Reply::new(StatusCode::SERVICE_UNAVAILABLE, "too many tunnels are open"))?;
    let mut target = dial(port)
        .await
        .map_err(|error| Reply::new(StatusCode::BAD_GATEWAY, format!("port {port} of the loopback: {error}")))?;
    let life = tunnels.life();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(Ok(caller)) = tokio::time::timeout(PORT_DIAL_MAX, upgrade).await else { return };
        let mut caller = TokioIo::new(caller);
        let copying = copy_bidirectional_with_sizes(&mut caller, &mut target, PORT_BUFFER_BYTES, PORT_BUFFER_BYTES);
        tokio::select! {
            // A tunnel that was cut ends with it, whatever it still has to say.
            biased;
            () = life.cancelled() => {}
            copied = copying => {
                if copied.is_err() {
                    let _ = target.set_zero_linger();
                }
            }
        }
        drop(permit);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(TUNNEL_PROTOCOL));
    Ok(response)
}

/// IPv4 first, as names resolve to it first in our images.
async fn dial(port: u16) -> io::Result<TcpStream> {
    let connect = |address: SocketAddr| async move {
        let connecting = tokio::time::timeout(PORT_DIAL_MAX, TcpStream::connect(address));
        let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(stream)
    };
    match connect((Ipv4Addr::LOCALHOST, port).into()).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // Without IPv6 the first refusal is the one to tell.
            connect((Ipv6Addr::LOCALHOST, port).into()).await.map_err(|_| error)
        }
        other => other,
    }
}
