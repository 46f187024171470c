//! `/v1/teams`: the caller's teams and who is in them. A team one is not in is not there.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::teams::{
    AddMember, ChangeRole, Member, NameTeam, Team, TeamRole, TeamWithMembers, TransferTeam,
};
use wrenn_domain::ids::TeamId;
use wrenn_domain::role::Role;
use wrenn_store::pg;

use super::extract::{Id, JsonBody, MemberId, parsed};
use super::render::role;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequirePerson;
use crate::context::Context;
use crate::service::teams;

/// List teams
///
/// Those the caller is in, oldest membership first.
#[utoipa::path(get, path = "/v1/teams", tag = "teams", security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Vec<Team>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
) -> Result<Json<Vec<Team>>, ApiError> {
    Ok(Json(teams::list(&ctx, &person).await?.into_iter().map(shown).collect()))
}

/// Create a team
///
/// The caller owns it.
#[utoipa::path(post, path = "/v1/teams", tag = "teams", request_body = NameTeam, security(("session" = []), ("api_key" = [])),
    responses((status = 201, body = Team), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    JsonBody(body): JsonBody<NameTeam>,
) -> Result<(StatusCode, Json<Team>), ApiError> {
    let made = teams::create(&ctx, &person, &parsed(&body.name)?).await?;
    Ok((StatusCode::CREATED, Json(shown(made))))
}

/// Get a team
#[utoipa::path(get, path = "/v1/teams/{id}", tag = "teams", security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 200, body = TeamWithMembers), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
) -> Result<Json<TeamWithMembers>, ApiError> {
    let team = shown(teams::get(&ctx, &person, id).await?);
    let members = teams::members(&ctx, &person, id).await?.into_iter().map(member).collect();
    Ok(Json(TeamWithMembers { team, members }))
}

/// Rename a team
///
/// For owner and admins.
#[utoipa::path(patch, path = "/v1/teams/{id}", tag = "teams", request_body = NameTeam, security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn rename(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
    JsonBody(body): JsonBody<NameTeam>,
) -> Result<StatusCode, ApiError> {
    teams::rename(&ctx, &person, id, &parsed(&body.name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a team
///
/// For the owner. Its keys die, its capsules end.
#[utoipa::path(delete, path = "/v1/teams/{id}", tag = "teams", security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
) -> Result<StatusCode, ApiError> {
    teams::delete(&ctx, &person, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List members
#[utoipa::path(get, path = "/v1/teams/{id}/members", tag = "teams", security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 200, body = Vec<Member>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn members(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
) -> Result<Json<Vec<Member>>, ApiError> {
    Ok(Json(teams::members(&ctx, &person, id).await?.into_iter().map(member).collect()))
}

/// Add a member
///
/// For owner and admins. The person needs an active account.
#[utoipa::path(post, path = "/v1/teams/{id}/members", tag = "teams", request_body = AddMember, security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 201, body = Member), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn add_member(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
    JsonBody(body): JsonBody<AddMember>,
) -> Result<(StatusCode, Json<Member>), ApiError> {
    let added = teams::add_member(&ctx, &person, id, &parsed(&body.email)?).await?;
    Ok((StatusCode::CREATED, Json(member(added))))
}

/// Change a member's role
///
/// For owner and admins; the owner's own role changes by a transfer only.
#[utoipa::path(patch, path = "/v1/teams/{id}/members/{uid}", tag = "teams", request_body = ChangeRole, security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters"), ("uid" = String, Path, description = "usr- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn change_role(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
    MemberId(user): MemberId,
    JsonBody(body): JsonBody<ChangeRole>,
) -> Result<StatusCode, ApiError> {
    let to = match body.role {
        TeamRole::Admin => Role::Admin,
        TeamRole::Member => Role::Member,
        TeamRole::Owner => return Err(ApiError::invalid("role: admin or member; ownership is given by a transfer")),
    };
    teams::change_role(&ctx, &person, id, user, to).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a member
///
/// Members are removed by owner and admins, admins by the owner. The keys they made in the team die with it.
#[utoipa::path(delete, path = "/v1/teams/{id}/members/{uid}", tag = "teams", security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters"), ("uid" = String, Path, description = "usr- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn remove_member(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
    MemberId(user): MemberId,
) -> Result<StatusCode, ApiError> {
    teams::remove_member(&ctx, &person, id, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leave a team
///
/// Everybody but the owner may.
#[utoipa::path(post, path = "/v1/teams/{id}/leave", tag = "teams", security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn leave(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
) -> Result<StatusCode, ApiError> {
    teams::remove_member(&ctx, &person, id, person.user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Transfer a team
///
/// For the owner, who becomes an admin of it.
#[utoipa::path(post, path = "/v1/teams/{id}/transfer", tag = "teams", request_body = TransferTeam, security(("session" = []), ("api_key" = [])),
    params(("id" = String, Path, description = "team- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn transfer(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<TeamId>,
    JsonBody(body): JsonBody<TransferTeam>,
) -> Result<StatusCode, ApiError> {
    teams::transfer(&ctx, &person, id, parsed(&body.user_id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown((team, held): (pg::Team, Role)) -> Team {
    Team {
        id: team.id.to_string(),
        name: team.name,
        slug: team.slug,
        is_byoc: team.is_byoc,
        created_at: team.created_at,
        role: role(held),
    }
}

fn member(stored: pg::Member) -> Member {
    Member {
        user_id: stored.user.to_string(),
        name: stored.name,
        email: stored.email,
        role: role(stored.role),
        joined_at: stored.joined_at,
    }
}
