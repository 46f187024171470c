//! `/v1/capsules`: create, list, get, delete, ping. (Pause, resume, fork: lifecycle.rs.) Here "sandbox" becomes "capsule".

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus, CreateCapsule};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::failure::Failure;
use wrenn_domain::metadata::Metadata;
use wrenn_domain::sandbox::SandboxState;
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_store::pg::{Sandbox, Traffic};

use super::ApiError;
use super::extract::{Caller, CapsuleId, JsonBody};
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
    let (sandbox, disk_used_mb) = sandboxes::look(&ctx, &actor, id).await?;
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

pub(super) fn capsule(sandbox: Sandbox) -> Capsule {
    let mut metadata = sandbox.metadata;
    metadata.extend(sandbox.system_metadata);
    Capsule {
        id: sandbox.id.to_string(),
        status: status(sandbox.state),
        template: sandbox.template,
        vcpus: sandbox.vcpus,
        memory_mb: sandbox.memory_mib,
        timeout_sec: sandbox.timeout_sec,
        disk_size_mb: sandbox.disk_mib,
        disk_used_mb: None,
        auto_resume: sandbox.traffic.auto_resume,
        public_ports: sandbox.traffic.public_ports,
        created_at: sandbox.created_at,
        started_at: sandbox.started_at,
        last_active_at: sandbox.last_active_at,
        last_updated: sandbox.updated_at,
        metadata,
        error: sandbox.error,
    }
}

fn status(state: SandboxState) -> CapsuleStatus {
    match state {
        SandboxState::Starting => CapsuleStatus::Starting,
        SandboxState::Running => CapsuleStatus::Running,
        SandboxState::Pausing => CapsuleStatus::Pausing,
        SandboxState::Paused => CapsuleStatus::Paused,
        SandboxState::Snapshotting => CapsuleStatus::Snapshotting,
        SandboxState::Resuming => CapsuleStatus::Resuming,
        SandboxState::Stopping => CapsuleStatus::Stopping,
        SandboxState::Missing => CapsuleStatus::Missing,
        SandboxState::Stopped => CapsuleStatus::Stopped,
        SandboxState::Error => CapsuleStatus::Error,
    }
}
