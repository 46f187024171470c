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
use crate::guest;
use crate::sandbox::{Refusal, Registry, Running, Touch};

/// Serves until `stop` ends.
///
/// # Errors
/// The listening socket failed.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let token: Option<Arc<str>> = registry.ctx.config.token.as_deref().map(Into::into);
    let rpc = Arc::new(Host(Arc::clone(&registry))).register(connectrpc::Router::new());
    let app = Router::new()
        .route("/sandboxes/{id}/guest", axum::routing::any(relay))
        .route("/sandboxes/{id}/guest/{*path}", axum::routing::any(relay))
        .route("/sandboxes/{id}/ports/{port}", axum::routing::get(tunnel))
        .with_state(registry)
        .fallback_service(rpc.into_axum_service())
        .layer(middleware::from_fn_with_state(token, check_token))
        .layer(middleware::map_request(|request: Request| ready(linger(request).map(Body::new))));
    axum::serve(listener.tap_nodelay(), app).with_graceful_shutdown(stop).await
}

/// Small answers must not wait for the next packet.
trait Nodelay {
    fn tap_nodelay(self) -> axum::serve::TapIo<TcpListener, fn(&mut tokio::net::TcpStream)>;
}

impl Nodelay for TcpListener {
    fn tap_nodelay(self) -> axum::serve::TapIo<TcpListener, fn(&mut tokio::net::TcpStream)> {
        use axum::serve::ListenerExt;
        self.tap_io(|stream| {
            // A connection that broke already ends by itself.
            let _ = stream.set_nodelay(true);
        })
    }
}

async fn check_token(State(token): State<Option<Arc<str>>>, request: Request, next: Next) -> Response {
    if let Some(token) = token {
        let given = request.headers().get(AUTH_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
        let expected = format!("Bearer {token}");
        if !bool::from(given.ct_eq(expected.as_bytes())) {
            return (StatusCode::UNAUTHORIZED, "the host token is missing or wrong: set WRENN_HOST_TOKEN\n")
                .into_response();
        }
    }
    next.run(request).await
}

async fn relay(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    relay_to(&registry, request).await.unwrap_or_else(refuse)
}

async fn tunnel(
    State(registry): State<Arc<Registry>>,
    Path((id, port)): Path<(String, String)>,
    request: Request,
) -> Response {
    tunnel_to(&registry, &id, &port, request).await.unwrap_or_else(refuse)
}

fn refuse(error: RelayError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, [(RELAY_ERROR_HEADER, error.code())]).into_response()
}

async fn relay_to(registry: &Registry, request: Request) -> Result<Response<Body>, RelayError> {
    // Split by hand: the path inside the guest passes exactly as it was written.
    let whole = request.uri().path_and_query().map_or("", |p| p.as_str()).to_owned();
    let mut parts = whole.trim_start_matches('/').splitn(4, '/');
    let (_, id, _, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (running, active) = running(registry, id.unwrap_or_default())?;
    guest::relay(&running.guest, &format!("/{}", rest.unwrap_or_default()), request, active).await
}

async fn tunnel_to(registry: &Registry, id: &str, port: &str, request: Request) -> Result<Response<Body>, RelayError> {
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or(RelayError::NotFound)?;
    let (running, active) = running(registry, id)?;
    guest::tunnel(&running.guest, port, request, active).await
}

fn running(registry: &Registry, id: &str) -> Result<(Running, Touch), RelayError> {
    let id: SandboxId = id.parse().map_err(|_| RelayError::NotFound)?;
    registry.running(id).map_err(|refusal| match refusal {
        Refusal::NotRunning => RelayError::NotRunning,
        _ => RelayError::NotFound,
    })
}
