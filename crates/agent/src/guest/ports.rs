//! Raw connections to ports of a guest: an upgraded request becomes one TCP connection, bytes both ways.
//!
//! The guest's address is dialled from inside the sandbox's namespace, so nothing but this guest can be reached. When nobody
//! listens there, envd is asked for the port of the guest's loopback. A guest that ends resets its tunnels: half an answer must
//! not look like a whole one. Must never: read what passes.

use crate::failure::cause;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use wrenn_contract::guest::{TUNNEL, TUNNEL_PROTOCOL};
use wrenn_contract::host::RelayError;
use wrenn_domain::limits::{PORT_BUFFER_BYTES, PORT_CONNECTIONS_MAX, PORT_DIAL_MAX};

use super::dial::{GuestClient, GuestError, connect};
use super::host_pool::HostPool;
use super::tunnels::{Tunnel, Used};

/// Opens a tunnel and answers 101; the bytes flow after that, until both sides or the guest end.
///
/// # Errors
/// The guest does not run, does not answer, refuses the connection, or has as many as allowed.
pub async fn tunnel(
    client: &Arc<GuestClient>,
    port: u16,
    mut request: Request<Body>,
    activity: Arc<dyn Fn() + Send + Sync>,
    pool: &HostPool,
) -> Result<Response<Body>, RelayError> {
    if !asks_for_tunnel(&request) {
        return Ok(plain(StatusCode::UPGRADE_REQUIRED, "this path takes upgrades to wrenn-tcp only\n"));
    }
    let share = pool.share(PORT_CONNECTIONS_MAX);
    let tunnel = client.tunnels().enter(share, Used::new(activity));
    let permit = pool.permit_soon().await.ok_or(RelayError::Busy)?;
    let stream = tokio::select! {
        biased;
        () = client.gone().cancelled() => return Err(RelayError::NotRunning),
        () = tunnel.ended() => return Err(RelayError::Busy),
        stream = open(client, port) => stream?,
    };
    tunnel.used().now();
    let caller = hyper::upgrade::on(&mut request);
    let client = Arc::clone(client);
    tokio::spawn(async move {
        let Ok(Ok(caller)) = tokio::time::timeout(PORT_DIAL_MAX, caller).await else { return };
        let outcome = carry(&client, caller, stream, &tunnel).await;
        drop((tunnel, permit));
        if let Err(error) = outcome {
            tracing::debug!(port, %error, "a tunnel broke");
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(TUNNEL_PROTOCOL));
    Ok(response)
}

fn asks_for_tunnel(request: &Request<Body>) -> bool {
    let says = |name, word: &str| {
        let lines = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        lines.flat_map(|line| line.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    says(CONNECTION, "upgrade") && says(UPGRADE, TUNNEL_PROTOCOL)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

/// The guest's end of a tunnel.
enum GuestStream {
    /// To an address of the guest.
    Direct(TcpStream),
    /// To its loopback, through envd.
    Loopback(Box<TokioIo<Upgraded>>),
}

async fn open(client: &GuestClient, port: u16) -> Result<GuestStream, RelayError> {
    let direct = tokio::time::timeout(PORT_DIAL_MAX, connect(client.sockets(), port)).await;
    match direct {
        Ok(Ok(stream)) => Ok(GuestStream::Direct(stream)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => through_envd(client, port).await,
        Ok(Err(error)) => {
            tracing::debug!(port, %error, "a port of a guest cannot be reached");
            Err(RelayError::Unresponsive)
        }
        Err(_) => Err(RelayError::Unresponsive),
    }
}

async fn through_envd(client: &GuestClient, port: u16) -> Result<GuestStream, RelayError> {
    let request = Request::get(format!("{TUNNEL}?port={port}"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, TUNNEL_PROTOCOL)
        .body(Body::empty())
        .map_err(|_| RelayError::NotFound)?;
    let unresponsive = |error: GuestError| {
        tracing::debug!(port, error = cause(&error), "envd opened no tunnel");
        RelayError::Unresponsive
    };
    let answer = tokio::time::timeout(PORT_DIAL_MAX, client.send(request)).await;
    let answer = answer.map_err(|_| RelayError::Unresponsive)?.map_err(unresponsive)?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            let upgraded = hyper::upgrade::on(answer).await.map_err(|_| RelayError::Unresponsive)?;
            Ok(GuestStream::Loopback(Box::new(TokioIo::new(upgraded))))
        }
        StatusCode::SERVICE_UNAVAILABLE => Err(RelayError::Busy),
        _ => Err(RelayError::Refused),
    }
}

/// Carries bytes until both sides have ended or the guest is gone.
async fn carry(client: &GuestClient, caller: Upgraded, stream: GuestStream, tunnel: &Tunnel) -> io::Result<()> {
    // The bare socket, so that it can be reset.
    let parts = upgrade::downcast::<TokioIo<TcpStream>>(caller)
        .map_err(|_| io::Error::other("the caller's connection is not a TCP one"))?;
    let mut caller = parts.io.into_inner();
    let carried = match stream {
        GuestStream::Direct(guest) => both_ways(client, &mut caller, &parts.read_buf, guest, tunnel).await,
        GuestStream::Loopback(guest) => both_ways(client, &mut caller, &parts.read_buf, guest, tunnel).await,
    };
    if carried.is_err() {
        // Also when the guest ended: it may have been in the middle of an answer that only its end delimits.
        let _ = caller.set_zero_linger();
    }
    carried
}

async fn both_ways<G: AsyncRead + AsyncWrite>(
    client: &GuestClient,
    caller: &mut TcpStream,
    read_before: &[u8],
    guest: G,
    tunnel: &Tunnel,
) -> io::Result<()> {
    let used = tunnel.used();
    let (mut from_caller, mut to_caller) = caller.split();
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let up = async {
        // Who no longer reads may still answer: a refusal before the whole body was sent.
        if to_guest.write_all(read_before).await.is_err() {
            return Ok(());
        }
        pump(&mut from_caller, &mut to_guest, used).await.or_else(|broken| match broken {
            Broken::Reading(error) => Err(error),
            Broken::Writing(_) => Ok(()),
        })
    };
    let down = async {
        pump(&mut from_guest, &mut to_caller, used).await.map_err(|broken| match broken {
            Broken::Reading(error) | Broken::Writing(error) => error,
        })
    };
    tokio::select! {
        // What the guest said before its end still passes.
        biased;
        done = async { tokio::try_join!(up, down) } => done.map(|_| ()),
        () = client.gone().cancelled() => Err(io::Error::other("the guest is no longer running")),
        () = tunnel.ended() => Err(io::Error::other("the longest idle one of too many")),
        () = used.given_up() => Err(io::Error::other("half closed, and silent since")),
    }
}

enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// Passes everything on, and the end too.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    used: &Used,
) -> Result<(), Broken> {
    let mut buffer = vec![0; PORT_BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await.map_err(Broken::Reading)?;
        if count == 0 {
            used.half_close();
            return to.shutdown().await.map_err(Broken::Writing);
        }
        used.now();
        to.write_all(&buffer[..count]).await.map_err(Broken::Writing)?;
    }
}

#[cfg(test)]
mod tests;
