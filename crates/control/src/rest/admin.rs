//! `/v1/admin`: what platform admins see and do. Each route asks the database whether the caller is one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use wrenn_contract::rest::admin::{
    AdminCapsule, AdminTeam, AdminTeamPage, AdminTemplate, AdminUser, AdminUserPage, DeadLetter, DeadLetters, OfTeam,
    PageQuery, RetryDeadLetter, SetActive, SetAdmin, TeamLimits,
};
use wrenn_contract::rest::audit::{AuditPage, ListAudit};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::ids::{PLATFORM_TEAM, TeamId, UserId};
use wrenn_domain::limits::ADMIN_PAGE;
use wrenn_domain::quota::Limits;
use wrenn_store::pg;

use super::audit as audit_routes;
use super::extract::{CapsuleId, Id, JsonBody, Params, TemplateNamed, parsed};
use super::render::capsule;
use super::render::template;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequireAdmin;
use crate::context::Context;
use crate::service::{self, admin, audit};

/// List all teams
#[utoipa::path(get, path = "/v1/admin/teams", tag = "admin", params(PageQuery), security(("session" = [])),
    responses((status = 200, body = AdminTeamPage), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn teams(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
    Params(query): Params<PageQuery>,
) -> Result<Json<AdminTeamPage>, ApiError> {
    let page = query.page.unwrap_or(1);
    let (rows, total) = admin::teams(&ctx, page).await?;
    let teams = rows.into_iter().map(team).collect();
    Ok(Json(AdminTeamPage { teams, total, page, per_page: ADMIN_PAGE, total_pages: pages(total) }))
}

/// Delete a team
///
/// Its keys die, its capsules end.
#[utoipa::path(delete, path = "/v1/admin/teams/{id}", tag = "admin", security(("session" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete_team(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    Id(id): Id<TeamId>,
) -> Result<StatusCode, ApiError> {
    admin::delete_team(&ctx, &user.person(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List all users
#[utoipa::path(get, path = "/v1/admin/users", tag = "admin", params(PageQuery), security(("session" = [])),
    responses((status = 200, body = AdminUserPage), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn users(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
    Params(query): Params<PageQuery>,
) -> Result<Json<AdminUserPage>, ApiError> {
    let page = query.page.unwrap_or(1);
    let (rows, total) = admin::users(&ctx, page).await?;
    let users = rows.into_iter().map(user).collect();
    Ok(Json(AdminUserPage { users, total, page, per_page: ADMIN_PAGE, total_pages: pages(total) }))
}

/// Let an account in or shut it out
///
/// Shutting out ends its sessions and keys, and the capsules of the teams it owns.
#[utoipa::path(put, path = "/v1/admin/users/{id}/active", tag = "admin", request_body = SetActive, security(("session" = [])),
    params(("id" = String, Path, description = "usr- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn set_active(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    Id(id): Id<UserId>,
    JsonBody(body): JsonBody<SetActive>,
) -> Result<StatusCode, ApiError> {
    admin::set_active(&ctx, &user.person(), id, body.active).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make an account an admin, or take that from it
///
/// The platform keeps at least one.
#[utoipa::path(put, path = "/v1/admin/users/{id}/admin", tag = "admin", request_body = SetAdmin, security(("session" = [])),
    params(("id" = String, Path, description = "usr- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn set_admin(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    Id(id): Id<UserId>,
    JsonBody(body): JsonBody<SetAdmin>,
) -> Result<StatusCode, ApiError> {
    admin::set_admin(&ctx, &user.person(), id, body.admin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List capsules of all teams
///
/// Newest first, without those that are over. At most 10000; `X-Truncated: true` says that there are more.
#[utoipa::path(get, path = "/v1/admin/capsules", tag = "admin", security(("session" = [])),
    responses((status = 200, body = Vec<AdminCapsule>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn capsules(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
) -> Result<Response, ApiError> {
    let (rows, more) = admin::capsules(&ctx).await?;
    let body = Json(rows.into_iter().map(of_team).collect::<Vec<_>>());
    Ok(if more { ([("x-truncated", "true")], body).into_response() } else { body.into_response() })
}

/// Get any team's capsule
#[utoipa::path(get, path = "/v1/admin/capsules/{id}", tag = "admin", security(("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = AdminCapsule), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get_capsule(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
    CapsuleId(id): CapsuleId,
) -> Result<Json<AdminCapsule>, ApiError> {
    Ok(Json(of_team(admin::capsule(&ctx, id).await?)))
}

/// Delete any team's capsule
#[utoipa::path(delete, path = "/v1/admin/capsules/{id}", tag = "admin", security(("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 202), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete_capsule(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    CapsuleId(id): CapsuleId,
) -> Result<StatusCode, ApiError> {
    admin::delete_capsule(&ctx, &user.person(), id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// List templates of all teams
#[utoipa::path(get, path = "/v1/admin/templates", tag = "admin", security(("session" = [])),
    responses((status = 200, body = Vec<AdminTemplate>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn templates(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
) -> Result<Json<Vec<AdminTemplate>>, ApiError> {
    let rows = admin::templates(&ctx).await?;
    let shown = |(team, stored): (TeamId, _)| AdminTemplate { team_id: team.to_string(), template: template(stored) };
    Ok(Json(rows.into_iter().map(shown).collect()))
}

/// Delete a template
///
/// The platform's of this name, or a team's by `team_id`. Its files follow when their host can be reached; capsules made from it
/// live on.
#[utoipa::path(delete, path = "/v1/admin/templates/{name}", tag = "admin", security(("session" = [])),
    params(("name" = String, Path, description = "Name of the template"), OfTeam),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete_template(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    TemplateNamed(name): TemplateNamed,
    Params(query): Params<OfTeam>,
) -> Result<StatusCode, ApiError> {
    let team = query.team_id.as_deref().map(parsed).transpose()?.unwrap_or(PLATFORM_TEAM);
    service::templates::delete_any(&ctx, &user.person(), team, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read the limits of teams without their own
///
/// Where an extension decides on limits, these count for nothing.
#[utoipa::path(get, path = "/v1/admin/limits", tag = "admin", security(("session" = [])),
    responses((status = 200, body = TeamLimits), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get_default_limits(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
) -> Result<Json<TeamLimits>, ApiError> {
    Ok(Json(shown_limits(admin::limits(&ctx, PLATFORM_TEAM).await?)))
}

/// Set the limits of teams without their own
///
/// All of them: one that is left out is no bound.
#[utoipa::path(put, path = "/v1/admin/limits", tag = "admin", request_body = TeamLimits, security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn set_default_limits(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    JsonBody(body): JsonBody<TeamLimits>,
) -> Result<StatusCode, ApiError> {
    admin::set_limits(&ctx, &user.person(), PLATFORM_TEAM, read_limits(body)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a team's limits
///
/// Its own, else those of teams without their own.
#[utoipa::path(get, path = "/v1/admin/teams/{id}/limits", tag = "admin", security(("session" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 200, body = TeamLimits), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get_limits(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
    Id(id): Id<TeamId>,
) -> Result<Json<TeamLimits>, ApiError> {
    Ok(Json(shown_limits(admin::limits(&ctx, id).await?)))
}

/// Set a team's limits
///
/// All of them: one that is left out is no bound. What the team uses already stays.
#[utoipa::path(put, path = "/v1/admin/teams/{id}/limits", tag = "admin", request_body = TeamLimits, security(("session" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn set_limits(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    Id(id): Id<TeamId>,
    JsonBody(body): JsonBody<TeamLimits>,
) -> Result<StatusCode, ApiError> {
    admin::set_limits(&ctx, &user.person(), id, read_limits(body)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown_limits(limits: Limits) -> TeamLimits {
    TeamLimits {
        capsules_max: limits.sandboxes_max,
        kept_max: limits.kept_max,
        vcpus_max: limits.vcpus_max,
        memory_mb_max: limits.memory_mib_max,
    }
}

fn read_limits(body: TeamLimits) -> Limits {
    Limits {
        sandboxes_max: body.capsules_max,
        kept_max: body.kept_max,
        vcpus_max: body.vcpus_max,
        memory_mib_max: body.memory_mb_max,
    }
}

/// Read the platform's audit log
///
/// Or any team's, by `team_id`.
#[utoipa::path(get, path = "/v1/admin/audit-logs", tag = "admin", params(ListAudit), security(("session" = [])),
    responses((status = 200, body = AuditPage), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn audit_logs(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
    Params(query): Params<ListAudit>,
) -> Result<Json<AuditPage>, ApiError> {
    Ok(Json(audit_routes::shown(audit::list_all(&ctx, audit_routes::parse_query(query)?).await?)))
}

/// List dead letters
///
/// Events no try to deliver worked, newest first, at most 200.
#[utoipa::path(get, path = "/v1/admin/events/dead", tag = "admin", security(("session" = [])),
    responses((status = 200, body = DeadLetters), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn dead_letters(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
) -> Result<Json<DeadLetters>, ApiError> {
    let items = admin::dead_letters(&ctx).await?.into_iter().map(dead_letter).collect();
    Ok(Json(DeadLetters { items }))
}

/// Deliver a dead letter again
///
/// It gets all its tries back.
#[utoipa::path(post, path = "/v1/admin/events/dead/retry", tag = "admin", request_body = RetryDeadLetter, security(("session" = [])),
    responses((status = 202), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn retry_dead_letter(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(_): RequireAdmin,
    JsonBody(body): JsonBody<RetryDeadLetter>,
) -> Result<StatusCode, ApiError> {
    admin::retry_dead_letter(&ctx, &body.group, parsed(&body.event_id)?).await?;
    Ok(StatusCode::ACCEPTED)
}

fn pages(total: i64) -> i64 {
    (total + ADMIN_PAGE - 1) / ADMIN_PAGE
}

fn of_team(sandbox: pg::Sandbox) -> AdminCapsule {
    AdminCapsule { team_id: sandbox.team.to_string(), capsule: capsule(sandbox) }
}

fn team(row: pg::AdminTeam) -> AdminTeam {
    AdminTeam {
        id: row.team.id.to_string(),
        name: row.team.name,
        slug: row.team.slug,
        is_byoc: row.team.is_byoc,
        created_at: row.team.created_at,
        deleted_at: row.deleted_at,
        member_count: row.member_count,
        owner_name: row.owner_name,
        owner_email: row.owner_email,
        active_sandbox_count: row.active_sandboxes,
        running_vcpus: row.running_vcpus,
        running_memory_mb: row.running_memory_mib,
    }
}

fn user(row: pg::AdminUser) -> AdminUser {
    AdminUser {
        id: row.user.id.to_string(),
        email: row.user.email,
        name: row.user.name,
        is_admin: row.user.is_admin,
        status: row.user.status.as_str().to_owned(),
        created_at: row.user.created_at,
        teams_joined: row.teams_joined,
        teams_owned: row.teams_owned,
    }
}

fn dead_letter(row: pg::DeadLetter) -> DeadLetter {
    DeadLetter {
        event_id: row.event.id.to_string(),
        group: row.group,
        event: row.event.kind.to_string(),
        outcome: row.event.outcome.map(|outcome| outcome.to_string()),
        team_id: row.event.team.to_string(),
        resource_id: row.event.resource_id,
        occurred_at: row.event.timestamp,
        metadata: row.event.metadata,
        attempts: row.attempts,
        error: row.error,
        died_at: row.died_at,
    }
}
