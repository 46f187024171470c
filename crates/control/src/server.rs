//! A control plane from configuration to sockets.
//!
//! A distribution embeds it: `Server::builder().version("...").run()`. PostgreSQL and Redis may be away at the
//! start; requests are answered all the same (with 503) and background work begins when the schema is in place.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use uuid::Uuid;
use wrenn_domain::ids::HostId;
use wrenn_domain::limits::{
    CONNECTIONS_PER_NETWORK_MAX, FIRST_BYTE_MAX, FIRST_HEAD_MAX, H2_CONNECTION_AHEAD_BYTES, H2_HEAD_BYTES_MAX,
    H2_STREAM_AHEAD_BYTES, H2_STREAMS_MAX, KEEPALIVE_EVERY, REQUEST_HEAD_MAX, REQUEST_HEADERS_MAX, SHUTDOWN_WAIT_MAX,
};
use wrenn_http::linger;

use crate::client_address::{ClientAddress, Peer};
use crate::config::Config;
use crate::connection::{Connection, Cut, Protocol, first_byte, protocol};
use crate::context::{Context, Tuning};
use crate::extension::context::ServerContext;
use crate::extension::hooks::call;
use crate::extension::plugin::Extension;
use crate::fault::Faults;
use crate::proxy::{Proxy, claim};
use crate::sent_body::{Progress, SentBody};
use crate::state::permits::AnswerBytes;
use crate::state::pool::{Permit, Pool};
use crate::{panics, process_limits, rest, tasks};

/// Connections the kernel may hold for us until we take them.
const BACKLOG: u32 = 1024;

/// An extension's migrations; longer than that something hangs.
const PREPARE_WAIT_MAX: Duration = Duration::from_secs(300);

/// How a server is put together.
#[derive(Default)]
pub struct Builder {
    version: Option<String>,
    config: Option<Config>,
    tuning: Tuning,
    faults: Faults,
    extensions: Vec<Arc<dyn Extension>>,
}

/// A server that listens.
pub struct Server {
    ctx: Arc<Context>,
    app: axum::Router,
    listener: TcpListener,
    host_agent: String,
}

impl Builder {
    /// Shown by /health and in the API description; this crate's own when absent.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Settings; read from `.env` and the environment when absent.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Times of the background work.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Where tests end this control plane.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Adds a part of a distribution. The order is the order in which hooks are called.
    pub fn extension(mut self, extension: impl Extension) -> Self {
        self.extensions.push(Arc::new(extension));
        self
    }

    /// Opens the listening socket.
    pub fn bind(self) -> BoxFuture<'static, anyhow::Result<Server>> {
        // Boxed here, like all that leads to serving: a future is compiled where its type is known, which would be once more in
        // every program that embeds this crate.
        async move {
            let config = match self.config {
                Some(config) => config,
                None => Config::load()?,
            };
            process_limits::ensure(&config)?;
            let version = self.version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
            let (listen, host_agent) = (config.listen, config.host_agent.clone());
            let ctx = Context::new(config, version, self.tuning, self.faults, self.extensions)?;
            let app = put_together(&ctx)?;
            let listener =
                listen_on(listen).with_context(|| format!("cannot listen on {listen} (WRENN_CP_LISTEN_ADDR)"))?;
            Ok(Server { ctx, app, listener, host_agent })
        }
        .boxed()
    }

    /// Binds and serves until SIGINT or SIGTERM.
    pub fn run(self) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            // Only where the process is this server's: who embeds it for a while decides for himself.
            process_limits::protect_memory()?;
            let server = self.bind().await?;
            let stop = server.stop_token();
            tokio::spawn(async move {
                wait_for_signal().await;
                tracing::info!("asked to end");
                stop.cancel();
            });
            server.serve().await
        }
        .boxed()
    }
}

impl Server {
    /// Begins to put a server together.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket has no address any more.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Cancel it to end the server.
    pub fn stop_token(&self) -> CancellationToken {
        self.ctx.stop.clone()
    }

    /// The shared state.
    pub fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Serves until stopped; then finishes what is under way, for a while.
    pub fn serve(self) -> BoxFuture<'static, anyhow::Result<()>> {
        async move {
            let ctx = self.ctx;
            tracing::info!(address = %self.listener.local_addr()?, version = ctx.version, "wrenn-cp listens");
            if !self.host_agent.starts_with("https://") {
                tracing::warn!(
                    "the host agent is spoken to in plain http; set WRENN_CA_CERT and WRENN_CA_KEY and give it an https address unless \
                     only you can reach the network between"
                );
            }
            let preparing = tokio::spawn(prepare(ctx.clone(), self.host_agent));
            accept(&ctx, self.app, self.listener).await;
            preparing.abort();
            ctx.tasks.close();
            if timeout(SHUTDOWN_WAIT_MAX, ctx.tasks.wait()).await.is_err() {
                tracing::warn!("background work did not end in time; its leases will");
            }
            if let Err(error) = ctx.store.host_unwatch_all(ctx.owner).await {
                tracing::debug!(%error, "watches end with their lease");
            }
            ctx.store.close().await;
            tracing::info!("ended");
            Ok(())
        }
        .boxed()
    }
}

/// Waits for the database, brings the schema up to date, registers the host, starts the background work.
async fn prepare(ctx: Arc<Context>, host_agent: String) {
    let mut pause = Duration::from_millis(100);
    loop {
        let ready = async {
            ctx.store.migrate().await?;
            prepare_extensions(&ctx).await?;
            anyhow::Ok(ctx.store.host_ensure(&host_agent, HostId::from_uuid(Uuid::new_v4())).await?)
        };
        match ready.await {
            Ok(host) => {
                tracing::info!(%host, address = host_agent, "the database is ready");
                tasks::spawn_all(&ctx);
                return;
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "waiting for PostgreSQL (DATABASE_URL), or for an extension to be ready"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
}

/// Routes, with those of extensions. Two that claim one path panic inside axum: here that is an error at the start.
fn put_together(ctx: &Arc<Context>) -> anyhow::Result<axum::Router> {
    let server = ServerContext::new(ctx.clone());
    for extension in &ctx.extensions {
        for provider in extension.oauth_providers(&server) {
            ctx.oauth.register(provider);
        }
    }
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rest::router(ctx.clone())));
    made.map_err(|panic| anyhow::anyhow!("the routes cannot be put together: {}", panics::message(&*panic)))
}

/// Lets every extension bring its tables up to date.
async fn prepare_extensions(ctx: &Arc<Context>) -> anyhow::Result<()> {
    let server = ServerContext::new(ctx.clone());
    for extension in &ctx.extensions {
        let prepared = call(PREPARE_WAIT_MAX, async { extension.prepare(&server).await }).await;
        prepared.with_context(|| format!("the extension {} cannot prepare itself", extension.name()))?;
    }
    Ok(())
}

async fn accept(ctx: &Arc<Context>, app: axum::Router, listener: TcpListener) {
    let connections = TaskTracker::new();
    let front = Front { app, proxy: Proxy::start(ctx) };
    let pool = Pool::new(ctx.config.connections, CONNECTIONS_PER_NETWORK_MAX.min(ctx.config.connections));
    loop {
        let (stream, peer) = tokio::select! {
            // Stop first: a flood of connections must not hold the end up.
            biased;
            () = ctx.stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: let some close.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let permit = match pool.take_or_evict(party(peer, &ctx.config.accounts.trusted_proxies)) {
            Ok(permit) => permit,
            Err(full) => {
                tracing::debug!(%peer, ?full, "a connection is closed: there are too many, and none is idle");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (front, stop, longest) = (front.clone(), ctx.stop.clone(), ctx.tuning.answer_progress);
        connections.spawn(async move {
            let held = Held { permit: Arc::new(permit), progress: Progress::default(), longest };
            if let Err(error) = serve_connection(front, stream, peer, stop, held).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    connections.close();
    if timeout(SHUTDOWN_WAIT_MAX, connections.wait()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut");
    }
}

/// Parts that every answer of one connection shares.
#[derive(Clone)]
struct Held {
    permit: Arc<Permit<String>>,
    progress: Progress,
    /// Time within which a client must take the next bytes.
    longest: Duration,
}

/// Network that a connection is counted for. A trusted proxy brings those of many clients: each of its connections counts alone.
fn party(peer: SocketAddr, trusted: &[IpNet]) -> String {
    let ip = peer.ip().to_canonical();
    if trusted.iter().any(|net| net.contains(&ip)) {
        return peer.to_string();
    }
    ClientAddress::behind(ip, &HeaderMap::new(), trusted).network()
}

/// Services behind every connection: the API, and before it the ports of capsules.
#[derive(Clone)]
struct Front {
    app: axum::Router,
    proxy: Arc<Proxy>,
}

impl Front {
    async fn answer(
        self,
        peer: SocketAddr,
        cut: Option<Cut>,
        held: Held,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Body>, Infallible> {
        let busy = held.permit.busy();
        let upgradable = cut.clone();
        let mut request = match request.version() {
            Version::HTTP_2 => request.map(Body::new),
            _ => linger(request).map(Body::new),
        };
        request.extensions_mut().insert(Peer(peer));
        if let Some(cut) = cut {
            request.extensions_mut().insert(cut);
        }
        let mut response = match claim(&request) {
            // Boxed: every connection would be as large as the largest thing it may do.
            Some(target) => Box::pin(self.proxy.answer(target, request)).await,
            None => self.app.oneshot(request).await?,
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(cut) = upgradable
        {
            cut.upgraded();
        }
        let bytes = response.extensions_mut().remove::<AnswerBytes>();
        Ok(response.map(|body| Body::new(SentBody::new(body, held.progress, busy, bytes))))
    }
}

/// One connection to its end; asked to stop, it finishes what is under way.
async fn serve_connection(
    front: Front,
    mut stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
    held: Held,
) -> anyhow::Result<()> {
    let begun = async {
        let mut first = timeout(FIRST_BYTE_MAX, first_byte(&mut stream)).await.context("it says nothing")??;
        let protocol =
            timeout(FIRST_HEAD_MAX, protocol(&mut stream, &mut first)).await.context("it stops speaking")??;
        anyhow::Ok((first.freeze(), protocol))
    };
    let (first, protocol) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        () = held.permit.evicted() => return Ok(()),
        begun = begun => begun?,
    };
    let connection = Connection::new(stream, first, held.longest);
    match protocol {
        Protocol::Http1 => serve_http1(front, connection, peer, stop, held).await,
        Protocol::Http2 => serve_http2(front, connection, peer, stop, held).await,
    }
}

async fn serve_http2(
    front: Front,
    connection: Connection,
    peer: SocketAddr,
    stop: CancellationToken,
    held: Held,
) -> anyhow::Result<()> {
    let each = held.clone();
    let service = service_fn(move |request| front.clone().answer(peer, None, each.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(H2_HEAD_BYTES_MAX)
        .initial_stream_window_size(H2_STREAM_AHEAD_BYTES)
        .initial_connection_window_size(H2_CONNECTION_AHEAD_BYTES)
        .keep_alive_interval(KEEPALIVE_EVERY)
        .serve_connection(TokioIo::new(connection), service);
    let mut connection = Box::pin(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = held.progress.stalled(held.longest) => anyhow::bail!("its client does not take its answers"),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        () = held.permit.evicted() => connection.as_mut().graceful_shutdown(),
    }
    // A client that does not answer the farewell must not keep what it was asked to give up.
    Ok(timeout(SHUTDOWN_WAIT_MAX, connection).await.context("it does not end")??)
}

async fn serve_http1(
    front: Front,
    connection: Connection,
    peer: SocketAddr,
    stop: CancellationToken,
    held: Held,
) -> anyhow::Result<()> {
    let spoke = Arc::new(AtomicBool::new(false));
    let (heard, cut, each) = (spoke.clone(), connection.cut(), held.clone());
    let service = service_fn(move |request| {
        heard.store(true, Ordering::Relaxed);
        cut.asked();
        front.clone().answer(peer, Some(cut.clone()), each.clone(), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD_MAX)
        .max_headers(REQUEST_HEADERS_MAX)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = held.progress.stalled(held.longest) => anyhow::bail!("its client does not take its answers"),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        () = held.permit.evicted() => connection.as_mut().graceful_shutdown(),
        () = says_nothing(&spoke) => anyhow::bail!("its first request did not come in time"),
    }
    Ok(connection.await?)
}

/// Returns when a client that began to speak has not brought out one request in time; never for one that has.
async fn says_nothing(spoke: &AtomicBool) {
    tokio::time::sleep(FIRST_HEAD_MAX).await;
    if spoke.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Accepted connections inherit the keepalive: a client that vanished while nothing is sent must not keep its place for ever.
fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
