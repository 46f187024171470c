//! `/health`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::Context;
use crate::service::health::{self, Part};

/// Standing of the server.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthBody {
    /// "ok", or "down" when the database does not answer. Redis only makes things faster.
    status: &'static str,
    version: String,
    parts: HealthParts,
}

/// "up" or "down" each.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthParts {
    postgres: &'static str,
    redis: &'static str,
}

/// Is the server well?
#[utoipa::path(get, path = "/health", tag = "meta",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody)))]
pub(super) async fn health(State(ctx): State<Arc<Context>>) -> (StatusCode, Json<HealthBody>) {
    let found = health::check(&ctx).await;
    let word = |part| if part == Part::Up { "up" } else { "down" };
    let (code, status) = match found.postgres {
        Part::Up => (StatusCode::OK, "ok"),
        Part::Down => (StatusCode::SERVICE_UNAVAILABLE, "down"),
    };
    let parts = HealthParts { postgres: word(found.postgres), redis: word(found.redis) };
    (code, Json(HealthBody { status, version: ctx.version.clone(), parts }))
}
