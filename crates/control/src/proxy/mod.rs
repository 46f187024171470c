//! The port proxy: requests whose host is `{port}-{capsule id}.{any domain}` go to that port of that capsule.
//!
//! ```text
//! client --HTTP/1.1 or HTTP/2--> here --HTTP/1.1 in a tunnel--> agent --TCP--> the guest's server
//! ```
//! Owns: which requests these are, what passes of them, the connections to guests. Stands before the API's routes and shares
//! none of their layers; its own answers are plain text, because programs and browsers of anybody read them. Must never: hold a
//! body, read one, or let a guest's server see our credentials.
//!
//! What passes and what does not is told to users in `docs/ports.md`.

mod guest_connections;
pub(crate) mod headers;
mod target;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use wrenn_contract::guest::{PORT as ENVD_PORT, TOKEN_HEADER, is_open_to_users};
use wrenn_domain::failure::FailureKind;
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::limits::{PORT_BUFFER_BYTES, PROXY_ANSWER_MAX, PROXY_IDLE_KEPT, TUNNEL_OPEN_MAX};

use crate::actor::Actor;
use crate::answer::CHALLENGE;
use crate::client_address::{ClientAddress, Peer};
use crate::connection::Cut;
use crate::context::Context;
use crate::error::ServiceError;
use crate::error_chain::chain;
use crate::revocable_body::RevocableBody;
use crate::service::credential_watch;
use crate::service::ports::{self, Visitor};
use crate::state::permits::TunnelPermit;
use guest_connections::{ConnectionPool, GuestConnection};
use headers::{KEY_HEADER, Step};
pub use target::{BadTarget, Target, claim};

/// While bytes flow, activity is noted this often.
const TOUCH_EVERY: Duration = Duration::from_secs(5);

/// The proxy of one control plane.
pub struct Proxy {
    ctx: Arc<Context>,
    pool: ConnectionPool,
}

/// An answer of our own.
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Proxy {
    /// With a task that drops idle connections until the server ends.
    pub fn start(ctx: &Arc<Context>) -> Arc<Self> {
        let proxy = Arc::new(Self { ctx: ctx.clone(), pool: ConnectionPool::default() });
        let sweeper = proxy.clone();
        ctx.tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = sweeper.ctx.stop.cancelled() => return sweeper.pool.close(),
                    () = tokio::time::sleep(PROXY_IDLE_KEPT / 2) => sweeper.pool.sweep(),
                }
            }
        });
        proxy
    }

    /// Answers a request that [`claim`] found to be for a port.
    pub async fn answer(self: &Arc<Self>, target: Result<Target, BadTarget>, request: Request<Body>) -> Response<Body> {
        let target = match target {
            Ok(target) => target,
            Err(bad) => return refuse(Refusal { status: StatusCode::BAD_REQUEST, text: bad.to_string() }),
        };
        self.pass(&target, request).await.unwrap_or_else(|refusal| {
            tracing::debug!(sandbox = %target.id, port = target.port, status = refusal.status.as_u16(), why = refusal.text, "a proxied request is refused");
            refuse(refusal)
        })
    }

    async fn pass(self: &Arc<Self>, target: &Target, mut request: Request<Body>) -> Result<Response<Body>, Refusal> {
        check(target, &request)?;
        let accounts = &self.ctx.config.accounts;
        // Where the installation has a public address, any other domain that leads here is not one that the operator chose.
        if let (Some(_), Some(domain)) = (&accounts.public_url, &accounts.proxy_domain)
            && target.name.split_once('.').is_none_or(|(_, own)| own != domain)
        {
            let text = format!("ports of capsules answer below {domain} only");
            return Err(Refusal { status: StatusCode::MISDIRECTED_REQUEST, text });
        }
        let key = request.headers().get(KEY_HEADER).and_then(|key| key.to_str().ok()).map(str::to_owned);
        let network = self.network(&request);
        let visitor = Visitor::Anybody { key: key.as_deref(), network: &network };
        // For every request, also where a connection is kept: who may come in may change.
        let located = ports::locate(&self.ctx, visitor, target.id).await;
        let (route, actor) = located.map_err(|error| refusal(target, error))?;
        self.ctx.touches.sandbox(target.id);

        let protocol = headers::upgrade_of(request.version(), request.headers());
        let client = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let cut = cut_of(&request);
        let request = self.prepare(target, request, protocol)?;
        let (connection, mut response) = tokio::select! {
            // The answer first: it is what is waited for.
            biased;
            sent = self.send(target, visitor, route.team, request) => sent?,
            () = lost(&self.ctx, actor.as_ref()) => return Err(refusal(target, credential_watch::ended().into())),
        };

        let guest = (response.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut response));
        let (mut parts, body) = response.into_parts();
        let protocol = guest.is_some().then(|| parts.headers.get(http::header::UPGRADE).cloned()).flatten();
        headers::to_client(&mut parts.headers, target, protocol);
        parts.version = Version::HTTP_11;
        match (client, guest) {
            (Some(client), Some(guest)) => {
                self.join(target.id, actor, client, guest, connection.permit);
                Ok(Response::from_parts(parts, Body::empty()))
            }
            (None, Some(_)) => Err(bad_gateway(target, "its server changes protocols unasked")),
            (_, None) => {
                self.take_back((target.id, target.port), connection);
                let flowing = Flowing::new(self.ctx.clone(), target.id, body);
                let body = match actor {
                    Some(actor) => Body::new(RevocableBody::new(&self.ctx, actor, cut, flowing)),
                    None => Body::new(flowing),
                };
                Ok(Response::from_parts(parts, body))
            }
        }
    }

    /// Network of a request's client, as limits count it.
    fn network(&self, request: &Request<Body>) -> String {
        let peer = request.extensions().get::<Peer>().map_or(std::net::IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
        let trusted = &self.ctx.config.accounts.trusted_proxies;
        ClientAddress::behind(peer.to_canonical(), request.headers(), trusted).network()
    }

    fn prepare(
        &self,
        target: &Target,
        request: Request<Body>,
        protocol: Option<HeaderValue>,
    ) -> Result<Request<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        let trusted = ClientAddress::is_proxied(&parts, &self.ctx.config.accounts.trusted_proxies);
        // The server puts it into every request.
        let peer = parts.extensions.get::<Peer>().map_or(std::net::IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
        headers::to_guest(&mut parts.headers, target, Step { peer: peer.to_canonical(), trusted }, protocol);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path
            .parse::<Uri>()
            .map_err(|_| Refusal { status: StatusCode::BAD_REQUEST, text: "the path is not valid".to_owned() })?;
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        Ok(Request::from_parts(parts, body))
    }

    /// Sends it over an idle connection, or a new one. One that was idle may have been hung up at the same moment: what was not
    /// sent, or may be sent twice, is sent again.
    async fn send(
        &self,
        target: &Target,
        visitor: Visitor<'_>,
        team: TeamId,
        mut request: Request<Body>,
    ) -> Result<(GuestConnection, Response<Incoming>), Refusal> {
        let mut repeats = 0;
        loop {
            let idle = self.pool.take((target.id, target.port));
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connect(target, visitor, team).await?,
            };
            let copy = (was_idle && repeats == 0).then(|| copy_of(&request)).flatten();
            let sent = tokio::time::timeout(PROXY_ANSWER_MAX, connection.sender.try_send_request(request)).await;
            let mut error = match sent {
                Ok(Ok(response)) => return Ok((connection, response)),
                Ok(Err(error)) => error,
                Err(_) => return Err(timed_out(target)),
            };
            request = match (was_idle, error.take_message(), copy) {
                // Every turn uses up an idle connection, so this ends.
                (true, Some(unsent), _) => unsent,
                (true, None, Some(copy)) => {
                    repeats += 1;
                    copy
                }
                _ => {
                    let error = error.into_error();
                    tracing::debug!(sandbox = %target.id, port = target.port, error = chain(&error), "a guest's server did not answer");
                    return Err(bad_gateway(target, what_failed(&error)));
                }
            };
        }
    }

    async fn connect(&self, target: &Target, visitor: Visitor<'_>, team: TeamId) -> Result<GuestConnection, Refusal> {
        let permit = self.pool.permit(&self.ctx.permits, target.id, team).await;
        let permit = permit.map_err(|full| refusal(target, ports::tunnels_full(full, target.id)))?;
        let tunnel = ports::connect(&self.ctx, visitor, target.id, target.port).await;
        let tunnel = tunnel.map_err(|error| refusal(target, error))?;
        guest_connections::begin(&self.ctx, tunnel, permit)
            .await
            .map_err(|_| bad_gateway(target, "the connection broke"))
    }

    /// Keeps a connection for the next request once the answer under way is over.
    fn take_back(self: &Arc<Self>, key: guest_connections::Key, mut connection: GuestConnection) {
        let proxy = self.clone();
        self.ctx.tasks.spawn(async move {
            if connection.sender.ready().await.is_ok() {
                proxy.pool.keep(key, connection);
            }
        });
    }

    /// Raw bytes both ways from now on.
    fn join(
        &self,
        id: SandboxId,
        actor: Option<Arc<Actor>>,
        client: OnUpgrade,
        guest: OnUpgrade,
        permit: Arc<TunnelPermit>,
    ) {
        let ctx = self.ctx.clone();
        self.ctx.tasks.spawn(async move {
            let both = async { tokio::try_join!(client, guest) };
            let Ok(Ok((client, guest))) = tokio::time::timeout(TUNNEL_OPEN_MAX, both).await else { return };
            tokio::select! {
                biased;
                () = ctx.stop.cancelled() => {}
                () = lost(&ctx, actor.as_ref()) => {}
                () = carry(&ctx, id, client, guest) => {}
            }
            drop(permit);
        });
    }
}

/// Returns when the credential a visitor came in with ended; never for one who needed none.
async fn lost(ctx: &Context, actor: Option<&Arc<Actor>>) {
    match actor {
        Some(actor) => credential_watch::lost(ctx, actor).await,
        None => std::future::pending().await,
    }
}

fn cut_of(request: &Request<Body>) -> Option<Cut> {
    request.extensions().get::<Cut>().cloned()
}

async fn carry(ctx: &Context, id: SandboxId, client: Upgraded, guest: Upgraded) {
    let mut client = TokioIo::new(client);
    let mut guest = Touching { io: TokioIo::new(guest), ctx, id, at: Instant::now() };
    let copied = copy_bidirectional_with_sizes(&mut client, &mut guest, PORT_BUFFER_BYTES, PORT_BUFFER_BYTES).await;
    if let Err(error) = copied {
        tracing::debug!(sandbox = %id, %error, "an upgraded connection broke");
    }
}

/// Refuses what needs nobody to be asked.
fn check(target: &Target, request: &Request<Body>) -> Result<(), Refusal> {
    let bad = |status, text: &str| Err(Refusal { status, text: text.to_owned() });
    if request.method() == Method::CONNECT {
        return bad(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not taken here; `wrenn port-forward` carries raw TCP");
    }
    if target.port == ENVD_PORT && !is_open_to_users(request.uri().path()) {
        return bad(StatusCode::NOT_FOUND, "the capsule's own agent has no such path for users");
    }
    if target.port == ENVD_PORT && !request.headers().contains_key(TOKEN_HEADER) {
        return bad(
            StatusCode::UNAUTHORIZED,
            "this port belongs to the capsule's own agent and needs the capsule's token in X-Access-Token",
        );
    }
    Ok(())
}

/// Copies a request if sending it twice does no harm: safe by its method, and without a body.
fn copy_of(request: &Request<Body>) -> Option<Request<Body>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Tells apart why no answer of a guest's server came.
fn what_failed(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() {
        "the head of its server's answer is larger than 64 KiB or has more than 512 headers"
    } else if error.is_parse() {
        "its server did not answer with HTTP/1"
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "its server hung up before it answered"
    } else if error.is_user() || error.is_body_write_aborted() {
        "the body of the request broke off"
    } else {
        "the connection to its server broke before it answered"
    }
}

fn timed_out(target: &Target) -> Refusal {
    let secs = PROXY_ANSWER_MAX.as_secs();
    let text = format!("port {} of capsule {} did not begin to answer within {secs} s", target.port, target.id);
    Refusal { status: StatusCode::GATEWAY_TIMEOUT, text }
}

fn bad_gateway(target: &Target, what: &str) -> Refusal {
    let text = format!("port {} of capsule {} does not answer: {what}", target.port, target.id);
    Refusal { status: StatusCode::BAD_GATEWAY, text }
}

fn refusal(target: &Target, error: ServiceError) -> Refusal {
    let (status, text) = match &error {
        ServiceError::Failure(failure) | ServiceError::Host { failure, .. } => {
            let status = match failure.kind {
                FailureKind::Invalid => StatusCode::BAD_REQUEST,
                FailureKind::Unauthorized => StatusCode::UNAUTHORIZED,
                FailureKind::NotFound => StatusCode::NOT_FOUND,
                FailureKind::NotRunning | FailureKind::Conflict => StatusCode::CONFLICT,
                FailureKind::Upstream | FailureKind::Timeout => StatusCode::BAD_GATEWAY,
                // No room, no quota, no host: later perhaps.
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, failure.message.clone())
        }
        ServiceError::Busy(text) => (StatusCode::SERVICE_UNAVAILABLE, text.clone()),
        ServiceError::TooMany { failure, .. } => (StatusCode::SERVICE_UNAVAILABLE, failure.message.clone()),
        ServiceError::Store(_) => {
            let text = "the control plane's database cannot be reached now; try again".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    };
    tracing::debug!(sandbox = %target.id, port = target.port, error = chain(&error), "no way to a port");
    Refusal { status, text }
}

fn refuse(Refusal { status, text }: Refusal) -> Response<Body> {
    let mut response = Response::new(Body::from(text + "\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

/// A guest's body on its way to the client; counts as activity while it flows.
struct Flowing {
    ctx: Arc<Context>,
    id: SandboxId,
    body: Incoming,
    at: Instant,
}

impl Flowing {
    fn new(ctx: Arc<Context>, id: SandboxId, body: Incoming) -> Self {
        Self { ctx, id, body, at: Instant::now() }
    }
}

impl hyper::body::Body for Flowing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) && self.at.elapsed() >= TOUCH_EVERY {
            self.at = Instant::now();
            self.ctx.touches.sandbox(self.id);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A guest's end of an upgraded connection; counts as activity while bytes flow.
struct Touching<'a> {
    io: TokioIo<Upgraded>,
    ctx: &'a Context,
    id: SandboxId,
    at: Instant,
}

impl Touching<'_> {
    fn touch(&mut self) {
        if self.at.elapsed() >= TOUCH_EVERY {
            self.at = Instant::now();
            self.ctx.touches.sandbox(self.id);
        }
    }
}

impl tokio::io::AsyncRead for Touching<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if polled.is_ready() {
            self.touch();
        }
        polled
    }
}

impl tokio::io::AsyncWrite for Touching<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Poller<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if polled.is_ready() {
            self.touch();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
