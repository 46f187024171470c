//! envd's HTTP surface: the router, the token in front of it, and the answers of plain routes.

mod auth;
mod control;
mod listen;
mod reply;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use wrenn_contract::guest::{ACTIVITY, FILES, HEALTH, INIT, METRICS, SNAPSHOT_FREEZE, SNAPSHOT_PREPARE, TUNNEL};

pub use listen::{CONNECTIONS_MAX, listen};
pub use reply::Reply;

use crate::state::Envd;
use crate::{files, filesystem, tunnel, usage};

/// Every route; nothing but `GET /health` and `POST /init` answers without the token.
pub fn router(envd: Arc<Envd>) -> Router {
    Router::new()
        .route(HEALTH, get(control::health))
        .route(INIT, post(control::init))
        .route(SNAPSHOT_PREPARE, post(control::snapshot_prepare))
        .route(SNAPSHOT_FREEZE, post(control::snapshot_freeze))
        .route(METRICS, get(usage::metrics).with_state(envd.usage.clone()))
        .route(ACTIVITY, get(usage::activity).with_state(envd.usage.clone()))
        .route(FILES, get(files::read).put(files::write).post(files::write_parts))
        .route(TUNNEL, get(tunnel::tunnel).with_state(envd.tunnels.clone()))
        .route_service("/filesystem.Filesystem/{method}", filesystem::router(envd.clone()))
        .route_service("/process.Process/{method}", crate::process::service(envd.clone()))
        .fallback(reply::no_such_route)
        .layer(from_fn_with_state(envd.clone(), auth::require_token))
        .with_state(envd)
}
