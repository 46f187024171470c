//! The listening socket: token first, then the service or the relay.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use wrenn_contract::host::{AUTH_HEADER, RELAY_ERROR_HEADER, RelayError};
use wrenn_contract::proto::wrenn::host::v1::HostServiceExt;
use wrenn_domain::ids::SandboxId;
use wrenn_http::linger;

use super::host::Host;
use super::listen::{CONNECTIONS_MAX, PROOF_WAIT, Proof, listen};
use crate::guest::{self, HostPool};
use crate::sandbox::{Refusal, Registry, Running, Touch};

/// Tunnels to guests of this host at once, and those of one guest when more than half of them are open.
const TUNNELS_MAX: usize = 4096;
const CROWDED_TUNNELS: usize = 64;
/// Relayed calls to guests of this host at once, and those of one guest when more than half of them are under way.
const CALLS_MAX: usize = 4096;
const CROWDED_CALLS: usize = 48;

/// Descriptors that connections to the agent and from it to guests take at most: a tunnel has an end on each side.
pub const DESCRIPTORS_MAX: usize = CONNECTIONS_MAX + 2 * TUNNELS_MAX + CALLS_MAX;

/// Serving is shared by all requests to guests.
#[derive(Clone)]
struct Serving {
    registry: Arc<Registry>,
    tunnels: Arc<HostPool>,
    calls: Arc<HostPool>,
}

/// Serves until `stop` ends.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, stop: impl Future<Output = ()> + Send + 'static) {
    let token: Option<Arc<str>> = registry.ctx.config.token.as_deref().map(Into::into);
    let rpc = Arc::new(Host(Arc::clone(&registry))).register(connectrpc::Router::new());
    let serving = Serving {
        registry,
        tunnels: Arc::new(HostPool::new(TUNNELS_MAX, CROWDED_TUNNELS)),
        calls: Arc::new(HostPool::new(CALLS_MAX, CROWDED_CALLS)),
    };
    let app = Router::new()
        .route("/sandboxes/{id}/guest", axum::routing::any(relay))
        .route("/sandboxes/{id}/guest/{*path}", axum::routing::any(relay))
        .route("/sandboxes/{id}/ports/{port}", axum::routing::get(tunnel))
        .with_state(serving)
        .fallback_service(rpc.into_axum_service())
        .layer(middleware::from_fn_with_state(token, check_token))
        .layer(middleware::map_request(|request: Request| ready(linger(request).map(Body::new))));
    listen(listener, app, PROOF_WAIT, stop).await;
}

async fn check_token(State(token): State<Option<Arc<str>>>, request: Request, next: Next) -> Response {
    if let Some(token) = token {
        let expected = format!("Bearer {token}");
        let is_right = |given: &http::HeaderValue| bool::from(given.as_bytes().ct_eq(expected.as_bytes()));
        if !request.headers().get(AUTH_HEADER).is_some_and(is_right) {
            return (StatusCode::UNAUTHORIZED, "the host token is missing or wrong: set WRENN_HOST_TOKEN\n")
                .into_response();
        }
    }
    if let Some(proof) = request.extensions().get::<Proof>() {
        proof.give();
    }
    next.run(request).await
}

async fn relay(State(serving): State<Serving>, request: Request) -> Response {
    relay_to(&serving, request).await.unwrap_or_else(refuse)
}

async fn tunnel(
    State(serving): State<Serving>,
    Path((id, port)): Path<(String, String)>,
    request: Request,
) -> Response {
    tunnel_to(&serving, &id, &port, request).await.unwrap_or_else(refuse)
}

fn refuse(error: RelayError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, [(RELAY_ERROR_HEADER, error.code())]).into_response()
}

async fn relay_to(serving: &Serving, request: Request) -> Result<Response<Body>, RelayError> {
    // Split by hand: the path inside the guest passes exactly as it was written.
    let whole = request.uri().path_and_query().map_or("", |p| p.as_str()).to_owned();
    let mut parts = whole.trim_start_matches('/').splitn(4, '/');
    let (_, id, _, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (running, active) = running(&serving.registry, id.ok_or(RelayError::NotFound)?)?;
    guest::relay(&running.guest, &format!("/{}", rest.unwrap_or_default()), request, active, &serving.calls).await
}

async fn tunnel_to(serving: &Serving, id: &str, port: &str, request: Request) -> Result<Response<Body>, RelayError> {
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or(RelayError::NotFound)?;
    let (running, active) = running(&serving.registry, id)?;
    guest::tunnel(&running.guest, port, request, active, &serving.tunnels).await
}

fn running(registry: &Registry, id: &str) -> Result<(Running, Touch), RelayError> {
    let id: SandboxId = id.parse().map_err(|_| RelayError::NotFound)?;
    registry.running(id).map_err(|refusal| match refusal {
        Refusal::NotRunning => RelayError::NotRunning,
        Refusal::NotFound
        | Refusal::Deleted
        | Refusal::Invalid(_)
        | Refusal::NoCapacity(_)
        | Refusal::NoTemplate(_)
        | Refusal::Unresponsive
        | Refusal::Busy
        | Refusal::Failed(_)
        | Refusal::Storage(_) => RelayError::NotFound,
    })
}
