//! envd's HTTP surface: the router, the token in front of it, and the answers of plain routes.

mod auth;
mod control;
mod listen;
mod reply;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use wrenn_contract::guest::{HEALTH, INIT, SNAPSHOT_PREPARE};

pub use listen::{CONNECTIONS_MAX, listen};
pub use reply::Reply;

use crate::server::Envd;

/// Every route; nothing but `GET /health` and `POST /init` answers without the token.
pub fn router(envd: Arc<Envd>) -> Router {
    Router::new()
        .route(HEALTH, get(control::health))
        .route(INIT, post(control::init))
        .route(SNAPSHOT_PREPARE, post(control::snapshot_prepare))
        .route_service("/process.Process/{method}", crate::process::service(envd.clone()))
        .fallback(reply::no_such_route)
        .layer(from_fn_with_state(envd.clone(), auth::require_token))
        .with_state(envd)
}
