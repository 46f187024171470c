//! An HTTP client whose connections begin inside a sandbox's network namespace.

use std::future::Future;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
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
use wrenn_domain::limits::{PORT_CONNECTIONS_MAX, RELAY_CALLS_MAX};
use wrenn_linux::netns::Netns;

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
    #[error("could not listen for the guest")]
    Listen(#[source] std::io::Error),
}

/// Calls envd of one guest, with its token.
pub struct GuestClient {
    client: Client<Dialer, Body>,
    token: RwLock<http::HeaderValue>,
    /// Set when the guest is no more: its end of a connection then says nothing, not even that it is closed.
    gone: CancellationToken,
    calls: Arc<Semaphore>,
    netns: Arc<Netns>,
    ports: Arc<Semaphore>,
}

impl GuestClient {
    /// Opens nothing yet.
    pub fn new(netns: Arc<Netns>, token: &str) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_WAIT)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(Dialer { netns: Arc::clone(&netns) });
        Self {
            client,
            token: RwLock::new(header(token)),
            gone: CancellationToken::new(),
            calls: Arc::new(Semaphore::new(RELAY_CALLS_MAX)),
            netns,
            ports: Arc::new(Semaphore::new(PORT_CONNECTIONS_MAX)),
        }
    }

    /// The guest's network.
    pub(super) fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// A place for one more connection to a port. `None` when there are as many as allowed.
    pub(super) fn port_place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.ports).try_acquire_owned().ok()
    }

    /// The guest is no more: every call under way breaks off.
    pub fn hang_up(&self) {
        self.gone.cancel();
    }

    /// To break off with.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// From now on the guest knows this one.
    pub fn set_token(&self, token: &str) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = header(token);
    }

    /// One call. `None` when as many as allowed are under way. The permit travels with the answer's body.
    pub fn permit(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.calls).try_acquire_owned().ok()
    }

    /// Sends a request to envd; its URI is a path.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, GuestError> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        if let Ok(uri) = Uri::builder().scheme("http").authority(authority()).path_and_query(path).build() {
            *request.uri_mut() = uri;
        }
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        request.headers_mut().insert(wrenn_contract::guest::TOKEN_HEADER, token);
        Ok(self.client.request(request).await?)
    }
}

fn header(token: &str) -> http::HeaderValue {
    let mut value = http::HeaderValue::from_str(token).unwrap_or_else(|_| http::HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

fn authority() -> String {
    format!("{GUEST_ADDR}:{PORT}")
}

/// Opens a connection to envd on a thread inside the namespace.
#[derive(Clone)]
struct Dialer {
    netns: Arc<Netns>,
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
        let netns = Arc::clone(&self.netns);
        Box::pin(async move {
            let connect =
                move || netns.run(|| StdStream::connect_timeout(&SocketAddr::from((GUEST_ADDR, PORT)), CONNECT_WAIT));
            let stream = tokio::task::spawn_blocking(connect).await.map_err(std::io::Error::other)??;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(TcpStream::from_std(stream)?))
        })
    }
}
