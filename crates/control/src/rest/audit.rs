//! `/v1/audit-logs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use wrenn_contract::rest::audit::{AuditEntry, AuditPage, ListAudit};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_store::pg::AuditRow;

use super::extract::Params;
use super::keys::team;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequirePerson;
use crate::context::Context;
use crate::service::audit;

/// Read the audit log
///
/// Of one team, newest first. Members see the scope `team`, owner and admins also `admin`.
#[utoipa::path(get, path = "/v1/audit-logs", tag = "teams", params(ListAudit), security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = AuditPage), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Params(query): Params<ListAudit>,
) -> Result<Json<AuditPage>, ApiError> {
    Ok(Json(shown(audit::list(&ctx, &person, parse_query(query)?).await?)))
}

/// The parsed query.
pub(super) fn parse_query(query: ListAudit) -> Result<audit::ListAudit, ApiError> {
    Ok(audit::ListAudit {
        team: team(query.team_id)?,
        cursor: query.cursor,
        limit: query.limit,
        resource_type: query.resource_type,
        action: query.action,
    })
}

/// A page as the API writes it.
pub(super) fn shown((rows, next_cursor): audit::Page) -> AuditPage {
    AuditPage { items: rows.into_iter().map(entry).collect(), next_cursor }
}

fn entry(row: AuditRow) -> AuditEntry {
    AuditEntry {
        id: row.id.to_string(),
        actor_type: row.author.kind.to_string(),
        actor_id: row.author.id,
        actor_name: row.author.name,
        resource_type: row.resource_type,
        resource_id: row.resource_id,
        action: row.action,
        scope: row.scope.as_str().to_owned(),
        status: row.status.as_str().to_owned(),
        metadata: row.metadata,
        created_at: row.created_at,
    }
}
