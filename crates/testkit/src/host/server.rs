//! Sockets of the simulated host: RPC and guest relay on one port, behind the host token.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use wrenn_contract::guest::TOKEN_HEADER;
use wrenn_contract::host::{AUTH_HEADER, RELAY_ERROR_HEADER, RELAYED_HEADER, RelayError};
use wrenn_contract::proto::wrenn::host::v1::{HostServiceExt, SandboxPhase};

use super::rpc::Rpc;
use super::state::{Inner, TOKEN};

#[derive(Clone)]
struct Relay {
    inner: Arc<Inner>,
    client: Client<HttpConnector, Body>,
    /// Hears when the agent is gone: its tunnels end with it.
    alive: tokio::sync::watch::Receiver<()>,
}

/// Serves until aborted; then every connection ends with it.
pub(super) async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let (_living, alive) = tokio::sync::watch::channel(());
    let rpc = Arc::new(Rpc(inner.clone())).register(connectrpc::Router::new());
    let app = axum::Router::new()
        .route("/sandboxes/{id}/guest/{*path}", axum::routing::any(relay))
        .route("/sandboxes/{id}/ports/{port}", axum::routing::get(tunnel))
        .with_state(Relay { inner, client, alive })
        .fallback_service(rpc.into_axum_service())
        .layer(axum::middleware::from_fn(check_token));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(app.clone());
        connections.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn check_token(request: Request, next: axum::middleware::Next) -> Response {
    let given = request.headers().get(AUTH_HEADER).and_then(|v| v.to_str().ok());
    if given != Some(&format!("Bearer {TOKEN}")) {
        return (http::StatusCode::UNAUTHORIZED, "wrong host token").into_response();
    }
    next.run(request).await
}

async fn relay(State(relay): State<Relay>, Path((id, _)): Path<(String, String)>, mut request: Request) -> Response {
    let target = {
        let state = relay.inner.state.lock().expect("no panic while held");
        match state.sandboxes.get(&id) {
            None => Err(RelayError::NotFound),
            Some(sim) => match (sim.report.phase.as_known(), &sim.guest) {
                (Some(SandboxPhase::Gone), _) => Err(RelayError::NotFound),
                (Some(SandboxPhase::Running), Some(guest)) => Ok((guest.addr, guest.token.clone())),
                (Some(SandboxPhase::Running), None) => Err(RelayError::Unresponsive),
                _ => Err(RelayError::NotRunning),
            },
        }
    };
    let (addr, token) = match target {
        Ok(target) => target,
        Err(error) => return refuse(error),
    };
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let inside = path.splitn(5, '/').nth(4).unwrap_or("");
    let Ok(uri) = format!("http://{addr}/{inside}").parse() else { return refuse(RelayError::NotFound) };
    *request.uri_mut() = uri;
    request.headers_mut().remove(AUTH_HEADER);
    request.headers_mut().remove(http::header::HOST);
    request.headers_mut().insert(TOKEN_HEADER, token.parse().expect("hex is a header value"));
    match relay.client.request(request).await {
        Ok(mut response) => {
            response.headers_mut().remove(RELAY_ERROR_HEADER);
            response.headers_mut().insert(RELAYED_HEADER, http::HeaderValue::from_static("1"));
            response.map(Body::new)
        }
        Err(_) => refuse(RelayError::Unresponsive),
    }
}

fn refuse(error: RelayError) -> Response {
    let status = http::StatusCode::from_u16(error.status()).expect("a status of the contract");
    (status, [(RELAY_ERROR_HEADER, error.code())], "relay").into_response()
}

/// A sandbox's ports are those of this machine's loopback. Like the real one, a tunnel breaks when its sandbox ends.
async fn tunnel(State(relay): State<Relay>, Path((id, port)): Path<(String, u16)>, mut request: Request) -> Response {
    let name = id.clone();
    let phase = move |inner: &Inner| {
        let state = inner.state.lock().expect("no panic while held");
        state.sandboxes.get(&name).and_then(|sim| sim.report.phase.as_known())
    };
    match phase(&relay.inner) {
        None | Some(SandboxPhase::Gone) => return refuse(RelayError::NotFound),
        Some(SandboxPhase::Running) => {}
        Some(_) => return refuse(RelayError::NotRunning),
    }
    let mut guest = match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
        Ok(guest) => guest,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return refuse(RelayError::Refused),
        Err(_) => return refuse(RelayError::Unresponsive),
    };
    let _ = guest.set_nodelay(true);
    relay.inner.called("tunnel", &id);
    let upgrade = hyper::upgrade::on(&mut request);
    let inner = relay.inner.clone();
    let is_running = move || phase(&inner) == Some(SandboxPhase::Running);
    let mut revision = relay.inner.revision.subscribe();
    let mut alive = relay.alive.clone();
    tokio::spawn(async move {
        let Ok(caller) = upgrade.await else { return };
        let Ok(parts) = caller.downcast::<TokioIo<tokio::net::TcpStream>>() else { return };
        let mut caller = parts.io.into_inner();
        let ended = async { while is_running() && revision.changed().await.is_ok() {} };
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut caller, &mut guest) => {
                if copied.is_ok() {
                    return;
                }
            }
            () = ended => {}
            _ = alive.changed() => {}
        }
        let _ = caller.set_zero_linger();
    });
    let upgraded = [("connection", "upgrade"), ("upgrade", wrenn_contract::guest::TUNNEL_PROTOCOL)];
    (http::StatusCode::SWITCHING_PROTOCOLS, upgraded).into_response()
}
