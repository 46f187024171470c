//! An HTTP client whose connections begin inside a sandbox's network namespace.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wrenn_contract::guest::{GUEST_ADDR, PORT};
use wrenn_domain::limits::RELAY_CALLS_MAX;

use super::tunnels::Tunnels;
use crate::blocking::blocking;
use crate::mutex::lock;
use crate::sockets::Sockets;

/// A guest on the same machine answers in a millisecond or not at all.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Idle connections kept per guest.
const IDLE_MAX: usize = 16;
const IDLE_WAIT: Duration = Duration::from_secs(90);

/// A call to a guest failed.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("the guest did not answer")]
    Call(#[from] hyper_util::client::legacy::Error),
    #[error("the guest's answer broke off")]
    Body(#[from] axum::Error),
    #[error("the guest answered {status}: {text}")]
    Refused { status: u16, text: String },
    #[error("the guest did not become ready within {0} s")]
    Late(u64),
    #[error("the guest confirmed another start than this one")]
    NotConfirmed,
    #[error("the request to the guest could not be built")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no random numbers to be had")]
    Random,
    #[error("could not listen for the guest")]
    Listen(#[source] std::io::Error),
}

/// Calls envd of one guest, with its token.
pub struct GuestClient {
    client: Client<Dialer, Body>,
    token: Mutex<http::HeaderValue>,
    /// Number of the guest's latest freeze, or the time this client was made, which is later than any before.
    freeze_number: AtomicU64,
    /// Set when the guest is no more: its end of a connection then says nothing, not even that it is closed.
    gone: CancellationToken,
    calls: Arc<Semaphore>,
    sockets: Arc<dyn Sockets>,
    tunnels: Tunnels,
}

impl GuestClient {
    /// Makes a client that has opened nothing yet.
    ///
    /// # Errors
    /// The token has bytes that no header can carry.
    pub fn new(sockets: Arc<dyn Sockets>, token: &str) -> Result<Self, GuestError> {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_WAIT)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(Dialer { sockets: Arc::clone(&sockets) });
        Ok(Self {
            client,
            token: Mutex::new(header(token)?),
            freeze_number: AtomicU64::new(unix_ns()),
            gone: CancellationToken::new(),
            calls: Arc::new(Semaphore::new(RELAY_CALLS_MAX)),
            sockets,
            tunnels: Tunnels::default(),
        })
    }

    /// Returns the guest's network.
    pub(super) fn sockets(&self) -> &Arc<dyn Sockets> {
        &self.sockets
    }

    /// Returns the connections to ports of the guest.
    pub(super) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Breaks every call under way off, because the guest is no more.
    pub fn disconnect(&self) {
        self.gone.cancel();
    }

    /// Returns the token that is cancelled when the guest is no more.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Uses another token from now on.
    ///
    /// # Errors
    /// The token has bytes that no header can carry.
    pub fn set_token(&self, token: &str) -> Result<(), GuestError> {
        *lock(&self.token) = header(token)?;
        Ok(())
    }

    /// Returns the number of the guest's latest freeze; a release of it ends all before.
    pub(super) fn freeze_number(&self) -> u64 {
        self.freeze_number.load(Ordering::Relaxed)
    }

    /// Chooses the number for a new freeze, larger than any this guest has seen: of this agent by counting, of a former one by the clock.
    pub(super) fn next_freeze_number(&self) -> u64 {
        let next = (self.freeze_number() + 1).max(unix_ns());
        self.freeze_number.store(next, Ordering::Relaxed);
        next
    }

    /// Takes a permit for one call; `None` when `most`, or as many as ever allowed, are under way. The permit travels with the answer's
    /// body.
    pub fn permit(&self, most: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let under_way = RELAY_CALLS_MAX - self.calls.available_permits();
        if under_way >= most { None } else { Arc::clone(&self.calls).try_acquire_owned().ok() }
    }

    /// Sends a request to envd; its URI is a path.
    ///
    /// # Errors
    /// The URI is not a path, or the guest does not answer.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, GuestError> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let uri = Uri::builder().scheme("http").authority(authority()).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|error| GuestError::Request(Box::new(error)))?;
        let token = lock(&self.token).clone();
        request.headers_mut().insert(wrenn_contract::guest::TOKEN_HEADER, token);
        Ok(self.client.request(request).await?)
    }
}

fn unix_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1)
}

fn header(token: &str) -> Result<http::HeaderValue, GuestError> {
    let mut value = http::HeaderValue::from_str(token).map_err(|error| GuestError::Request(Box::new(error)))?;
    value.set_sensitive(true);
    Ok(value)
}

fn authority() -> String {
    format!("{GUEST_ADDR}:{PORT}")
}

/// Opens connections to envd from inside the sandbox's network.
#[derive(Clone)]
struct Dialer {
    sockets: Arc<dyn Sockets>,
}

type Dialing = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<TcpStream>>> + Send>>;

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Dialing {
        let sockets = Arc::clone(&self.sockets);
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_WAIT, connect(&sockets, PORT)).await;
            connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        })
    }
}

/// Connects to a port of the guest. The socket is made inside the sandbox's network and belongs to it; connecting it needs no thread.
///
/// # Errors
/// The network is gone or nobody listens there.
pub(super) async fn connect(sockets: &Arc<dyn Sockets>, port: u16) -> std::io::Result<TcpStream> {
    let its = Arc::clone(sockets);
    let socket = blocking(move || its.tcp()).await?;
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.connect(sockets.guest(port)).await
}
