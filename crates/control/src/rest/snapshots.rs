//! `/v1/snapshots`: templates.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::snapshots::{ListTemplates, Template, TemplateKind};
use wrenn_store::pg;

use super::ApiError;
use super::extract::{Caller, Params};
use crate::context::Context;
use crate::service::templates;

/// List templates
///
/// The team's own and everybody's, newest first.
#[utoipa::path(get, path = "/v1/snapshots", tag = "templates", params(ListTemplates), security(("api_key" = [])),
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

pub(super) fn template(stored: pg::Template) -> Template {
    Template {
        name: stored.name.to_string(),
        kind: match stored.kind {
            pg::TemplateKind::Base => TemplateKind::Base,
            pg::TemplateKind::Snapshot => TemplateKind::Snapshot,
        },
        vcpus: stored.vcpus,
        memory_mb: stored.memory_mib,
        size_bytes: stored.size_bytes,
        created_at: stored.created_at,
        platform: stored.platform,
        protected: stored.protected,
        metadata: stored.metadata,
    }
}
