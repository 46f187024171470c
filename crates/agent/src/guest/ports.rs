//! Raw connections to ports of a guest: an upgraded request becomes one TCP connection, bytes both ways.
//!
//! The guest's address is dialled from inside the sandbox's namespace, so nothing but this guest can be reached. When nobody
//! listens there, envd is asked for the port of the guest's loopback. A guest that ends resets its tunnels: half an answer must
//! not look like a whole one. Must never: read what passes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use wrenn_contract::guest::{GUEST_ADDR, TUNNEL, TUNNEL_PROTOCOL};
use wrenn_contract::host::RelayError;
use wrenn_domain::limits::{PORT_BUFFER_BYTES, PORT_DIAL_MAX, PORT_HALF_CLOSED_MAX};
use wrenn_linux::netns::Netns;

use super::dial::{GuestClient, GuestError};

/// Between two looks whether a half-closed tunnel is still used.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Activity is told at most this often per tunnel; time-outs are counted in minutes.
const TELL_EVERY_MS: u64 = 500;

/// Opens a tunnel and answers 101; the bytes flow after that, until both sides or the guest end.
pub async fn tunnel(
    client: &Arc<GuestClient>,
    port: u16,
    mut request: Request<Body>,
    activity: Arc<dyn Fn() + Send + Sync>,
) -> Result<Response<Body>, RelayError> {
    if !asks_for_tunnel(&request) {
        return Ok(plain(StatusCode::UPGRADE_REQUIRED, "this path takes upgrades to wrenn-tcp only\n"));
    }
    let place = client.port_place().ok_or(RelayError::Busy)?;
    let way = tokio::select! {
        biased;
        () = client.gone().cancelled() => return Err(RelayError::NotRunning),
        way = open(client, port) => way?,
    };
    activity();
    let caller = hyper::upgrade::on(&mut request);
    let client = Arc::clone(client);
    tokio::spawn(async move {
        let Ok(Ok(caller)) = tokio::time::timeout(PORT_DIAL_MAX, caller).await else { return };
        let outcome = carry(&client, caller, way, activity, place).await;
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
enum Way {
    /// To an address of the guest.
    Direct(TcpStream),
    /// To its loopback, through envd.
    Loopback(Box<TokioIo<Upgraded>>),
}

async fn open(client: &GuestClient, port: u16) -> Result<Way, RelayError> {
    let direct = tokio::time::timeout(PORT_DIAL_MAX, dial(client.netns(), port)).await;
    match direct {
        Ok(Ok(stream)) => Ok(Way::Direct(stream)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => through_envd(client, port).await,
        Ok(Err(error)) => {
            tracing::debug!(port, %error, "a port of a guest cannot be reached");
            Err(RelayError::Unresponsive)
        }
        Err(_) => Err(RelayError::Unresponsive),
    }
}

/// The socket is made inside the namespace and belongs to it; connecting it needs no thread.
async fn dial(netns: &Arc<Netns>, port: u16) -> io::Result<TcpStream> {
    let netns = Arc::clone(netns);
    let make = move || netns.run(TcpSocket::new_v4);
    let socket = tokio::task::spawn_blocking(make).await.map_err(io::Error::other)??;
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.connect(SocketAddr::from((GUEST_ADDR, port))).await
}

async fn through_envd(client: &GuestClient, port: u16) -> Result<Way, RelayError> {
    let request = Request::get(format!("{TUNNEL}?port={port}"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, TUNNEL_PROTOCOL)
        .body(Body::empty())
        .map_err(|_| RelayError::NotFound)?;
    let unresponsive = |error: GuestError| {
        tracing::debug!(port, error = &error as &dyn std::error::Error, "envd opened no tunnel");
        RelayError::Unresponsive
    };
    let answer = tokio::time::timeout(PORT_DIAL_MAX, client.send(request)).await;
    let answer = answer.map_err(|_| RelayError::Unresponsive)?.map_err(unresponsive)?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            let upgraded = hyper::upgrade::on(answer).await.map_err(|_| RelayError::Unresponsive)?;
            Ok(Way::Loopback(Box::new(TokioIo::new(upgraded))))
        }
        StatusCode::SERVICE_UNAVAILABLE => Err(RelayError::Busy),
        _ => Err(RelayError::Refused),
    }
}

/// Carries bytes until both sides have ended or the guest is gone.
async fn carry(
    client: &GuestClient,
    caller: Upgraded,
    way: Way,
    activity: Arc<dyn Fn() + Send + Sync>,
    _place: OwnedSemaphorePermit,
) -> io::Result<()> {
    // The bare socket, so that it can be reset.
    let parts = upgrade::downcast::<TokioIo<TcpStream>>(caller)
        .map_err(|_| io::Error::other("the caller's connection is not a TCP one"))?;
    let mut caller = parts.io.into_inner();
    let used = Used::new(activity);
    let carried = match way {
        Way::Direct(guest) => both_ways(client, &mut caller, &parts.read_buf, guest, &used).await,
        Way::Loopback(guest) => both_ways(client, &mut caller, &parts.read_buf, guest, &used).await,
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
    ahead: &[u8],
    guest: G,
    used: &Used,
) -> io::Result<()> {
    let (mut from_caller, mut to_caller) = caller.split();
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let up = async {
        // Who no longer reads may still answer: a refusal before the whole body was sent.
        if to_guest.write_all(ahead).await.is_err() {
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
            used.half_closed.store(true, Ordering::Relaxed);
            return to.shutdown().await.map_err(Broken::Writing);
        }
        used.now();
        to.write_all(&buffer[..count]).await.map_err(Broken::Writing)?;
    }
}

/// When a tunnel was used, and whether a side of it has ended.
struct Used {
    began: Instant,
    at_ms: AtomicU64,
    told_ms: AtomicU64,
    half_closed: AtomicBool,
    activity: Arc<dyn Fn() + Send + Sync>,
}

impl Used {
    fn new(activity: Arc<dyn Fn() + Send + Sync>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { began: Instant::now(), at_ms: zero(), told_ms: zero(), half_closed: false.into(), activity }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn now(&self) {
        let now = self.now_ms();
        self.at_ms.store(now, Ordering::Relaxed);
        if now.saturating_sub(self.told_ms.load(Ordering::Relaxed)) >= TELL_EVERY_MS {
            self.told_ms.store(now, Ordering::Relaxed);
            (self.activity)();
        }
    }

    /// Returns when one side has ended and nothing has passed for so long that nobody waits for the other.
    async fn given_up(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let silent = self.now_ms().saturating_sub(self.at_ms.load(Ordering::Relaxed));
            let long = silent >= u64::try_from(PORT_HALF_CLOSED_MAX.as_millis()).unwrap_or(u64::MAX);
            if long && self.half_closed.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
