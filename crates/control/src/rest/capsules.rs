//! `/v1/capsules`: create, list, get, delete, ping. (Pause, resume, fork: lifecycle.rs.)

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use wrenn_contract::rest::capsules::{Capsule, CreateCapsule};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::failure::Failure;
use wrenn_domain::metadata::Metadata;
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_store::pg::Traffic;

use super::extract::{Caller, CapsuleId, JsonBody};
use super::render::capsule;
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::sandboxes::{self, CreateSandbox, TEMPLATE_DEFAULT};

/// Create a capsule
///
/// Answers at once with status `starting`; it becomes `running` or `error`.
#[utoipa::path(post, path = "/v1/capsules", tag = "capsules", request_body = CreateCapsule, security(("api_key" = []), ("session" = [])),
    responses((status = 202, body = Capsule), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    JsonBody(body): JsonBody<CreateCapsule>,
) -> Result<(StatusCode, Json<Capsule>), ApiError> {
    let sandbox = sandboxes::create(&ctx, &actor, parse(body)?).await?;
    Ok((StatusCode::ACCEPTED, Json(capsule(sandbox))))
}

/// List capsules
///
/// The team's, newest first, without those that are over. At most 10000; `X-Truncated: true` says that there are more.
#[utoipa::path(get, path = "/v1/capsules", tag = "capsules", security(("api_key" = []), ("session" = [])),
    responses((status = 200, body = Vec<Capsule>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(State(ctx): State<Arc<Context>>, Caller(actor): Caller) -> Result<Response, ApiError> {
    let (sandboxes, more) = sandboxes::list(&ctx, &actor).await?;
    let body = Json(sandboxes.into_iter().map(capsule).collect::<Vec<_>>());
    Ok(if more { ([("x-truncated", "true")], body).into_response() } else { body.into_response() })
}

/// Get a capsule
///
/// Also after its end.
#[utoipa::path(get, path = "/v1/capsules/{id}", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = Capsule), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
) -> Result<Json<Capsule>, ApiError> {
    let (sandbox, disk_used_mb) = sandboxes::get(&ctx, &actor, id).await?;
    Ok(Json(Capsule { disk_used_mb, ..capsule(sandbox) }))
}

/// Delete a capsule
///
/// In any state. Repeating it is no error.
#[utoipa::path(delete, path = "/v1/capsules/{id}", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 202), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
) -> Result<StatusCode, ApiError> {
    sandboxes::delete(&ctx, &actor, id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Ping a capsule
///
/// Proves that it answers, and counts as activity.
#[utoipa::path(post, path = "/v1/capsules/{id}/ping", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn ping(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
) -> Result<StatusCode, ApiError> {
    sandboxes::ping(&ctx, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a capsule's console
///
/// The last 64 KiB the guest's kernel and first processes printed, as they are.
#[utoipa::path(get, path = "/v1/capsules/{id}/console", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = String, content_type = "text/plain"), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn console(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
) -> Result<Response, ApiError> {
    let output = sandboxes::console(&ctx, &actor, id).await?;
    // A guest chooses these bytes: no browser may take them for a page.
    let headers = [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")];
    Ok((headers, output).into_response())
}

fn parse(body: CreateCapsule) -> Result<CreateSandbox, Failure> {
    let usual = Traffic::default();
    Ok(CreateSandbox {
        template: body.template.as_deref().unwrap_or(TEMPLATE_DEFAULT).parse()?,
        vcpus: body.vcpus.map_or(Ok(Vcpus::DEFAULT), Vcpus::parse)?,
        memory: body.memory_mb.map_or(Ok(MemoryMib::DEFAULT), MemoryMib::parse)?,
        disk: body.disk_size_mb.map_or(Ok(DiskMib::DEFAULT), DiskMib::parse)?,
        timeout: body.timeout_sec.map_or(Ok(TimeoutSec::NEVER), TimeoutSec::parse)?,
        metadata: Metadata::parse(body.metadata.unwrap_or_default())?,
        traffic: Traffic {
            auto_resume: body.auto_resume.unwrap_or(usual.auto_resume),
            public_ports: body.public_ports.unwrap_or(usual.public_ports),
        },
    })
}
