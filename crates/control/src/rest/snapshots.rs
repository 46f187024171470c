//! `/v1/snapshots`: templates.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use wrenn_contract::rest::capsules::Capsule;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::snapshots::{CreateSnapshot, CreateSnapshotOptions, ListTemplates, Template, TemplateKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::names::TemplateName;
use wrenn_store::pg;

use super::extract::{Caller, JsonBody, Params, TemplateNamed};
use super::render::{capsule, template};
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::{snapshots, templates};

/// Capture a capsule as a template
///
/// Answers at once with the capsule in status `snapshotting`; it goes back to `running` or `paused` when the capture is over, and
/// its `error` says when that did not work. A running capsule stands still only for the instant itself. The name is taken
/// from now on; the template is listed when it can be used.
#[utoipa::path(post, path = "/v1/snapshots", tag = "templates", request_body = CreateSnapshot, params(CreateSnapshotOptions), security(("api_key" = []), ("session" = [])),
    responses((status = 202, body = Capsule), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    Params(options): Params<CreateSnapshotOptions>,
    JsonBody(body): JsonBody<CreateSnapshot>,
) -> Result<(StatusCode, Json<Capsule>), ApiError> {
    let id: SandboxId = body
        .sandbox_id
        .parse()
        .map_err(|error: wrenn_domain::ids::InvalidId| ApiError::invalid(format!("sandbox_id: {error}")))?;
    let name = body.name.as_deref().map(str::parse::<TemplateName>).transpose()?;
    let sandbox = snapshots::create(&ctx, &actor, id, name, options.overwrite).await?;
    Ok((StatusCode::ACCEPTED, Json(capsule(sandbox))))
}

/// Delete a template
///
/// One of the team's own. Capsules made from it live on.
#[utoipa::path(delete, path = "/v1/snapshots/{name}", tag = "templates", security(("api_key" = []), ("session" = [])),
    params(("name" = String, Path, description = "Name of the template")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    TemplateNamed(name): TemplateNamed,
) -> Result<StatusCode, ApiError> {
    templates::delete(&ctx, &actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List templates
///
/// The team's own and everybody's, newest first.
#[utoipa::path(get, path = "/v1/snapshots", tag = "templates", params(ListTemplates), security(("api_key" = []), ("session" = [])),
    responses((status = 200, body = Vec<Template>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    Params(query): Params<ListTemplates>,
) -> Result<Json<Vec<Template>>, ApiError> {
    let kind = query.kind.map(|kind| match kind {
        TemplateKind::Base => pg::TemplateKind::Base,
        TemplateKind::Snapshot => pg::TemplateKind::Snapshot,
    });
    let list = templates::list(&ctx, &actor, kind).await?;
    Ok(Json(list.into_iter().map(template).collect()))
}
