//! `/v1/capsules/{id}/pause`, `/resume` and `/fork`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use wrenn_contract::rest::capsules::{Capsule, ForkCapsule, ForkError, ForkResult, ResumeCapsule};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::sizes::{ForkCount, TimeoutSec};
use wrenn_store::pg::Sandbox;

use super::extract::{Caller, CapsuleId, JsonBody, OptionalJsonBody};
use super::render::capsule;
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::forks::{self, ChildError};
use crate::service::pauses;

/// Pause a capsule
///
/// Its memory and disk are kept and nothing of it runs. Answers at once with status `pausing`; it becomes `paused`, or `running`
/// again with an `error` when that did not work. Pausing a paused one is no error.
#[utoipa::path(post, path = "/v1/capsules/{id}/pause", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 202, body = Capsule), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn pause(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
) -> Result<(StatusCode, Json<Capsule>), ApiError> {
    Ok((StatusCode::ACCEPTED, Json(capsule(pauses::pause(&ctx, &actor, id).await?))))
}

/// Resume a capsule
///
/// A paused one goes on where it was. A crashed one whose disk is kept is booted from it, and its metadata then says
/// `resumed_from=disk`. Answers at once with status `resuming`; it becomes `running`, or what it was with an `error` when that did not
/// work. Resuming a running one is no error.
#[utoipa::path(post, path = "/v1/capsules/{id}/resume", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")), request_body = Option<ResumeCapsule>,
    responses((status = 202, body = Capsule), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn resume(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    OptionalJsonBody(body): OptionalJsonBody<ResumeCapsule>,
) -> Result<(StatusCode, Json<Capsule>), ApiError> {
    let timeout = body.and_then(|body| body.timeout_sec).map(TimeoutSec::parse).transpose()?;
    Ok((StatusCode::ACCEPTED, Json(capsule(pauses::resume(&ctx, &actor, id, timeout).await?))))
}

/// Fork a capsule
///
/// Makes children of a running or paused capsule, all from the same instant; the capsule itself goes on. Answers when the host has
/// made them (or after 50 seconds with children that are still starting): one result each, in order, the child or the reason
/// why there is none.
#[utoipa::path(post, path = "/v1/capsules/{id}/fork", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")), request_body = ForkCapsule,
    responses((status = 200, body = Vec<ForkResult>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn fork(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    JsonBody(body): JsonBody<ForkCapsule>,
) -> Result<Json<Vec<ForkResult>>, ApiError> {
    let count = body.count.map_or(Ok(ForkCount::DEFAULT), ForkCount::parse)?;
    let results = forks::fork(&ctx, &actor, id, count).await?;
    Ok(Json(results.into_iter().map(result).collect()))
}

fn result(outcome: Result<Sandbox, ChildError>) -> ForkResult {
    match outcome {
        Ok(child) => ForkResult { capsule: Some(capsule(child)), error: None },
        Err(error) => ForkResult { capsule: None, error: Some(ForkError { code: error.code, message: error.message }) },
    }
}
