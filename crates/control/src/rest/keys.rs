//! `/v1/api-keys` and `/v1/users/search`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::keys::{ApiKey, CreateKey, FoundUser, ListKeys, SearchUsers};
use wrenn_domain::ids::{KeyId, TeamId};
use wrenn_store::pg::KeyRow;

use super::extract::{Id, JsonBody, Params, parsed};
use super::render::private;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequirePerson;
use crate::context::Context;
use crate::service::{accounts, keys};

/// Name of a key that was given none.
const NAME_DEFAULT: &str = "Unnamed API Key";

/// Create an API key
///
/// The key itself is in this answer only.
#[utoipa::path(post, path = "/v1/api-keys", tag = "keys", request_body = CreateKey, security(("session" = []), ("api_key" = [])),
    responses((status = 201, body = ApiKey), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn create(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    JsonBody(body): JsonBody<CreateKey>,
) -> Result<(StatusCode, HeaderMap, Json<ApiKey>), ApiError> {
    let request = keys::CreateKey {
        name: parsed(body.name.as_deref().unwrap_or(NAME_DEFAULT))?,
        days: body.expires_in_days,
        team: team(body.team_id)?,
    };
    let made = keys::create_for(&ctx, &person, request).await?;
    let shown = ApiKey {
        id: made.key.id.to_string(),
        team_id: made.key.team.to_string(),
        name: made.key.name,
        key_prefix: made.key.prefix,
        created_by: Some(person.user.to_string()),
        creator_email: Some(person.email),
        personal: false,
        created_at: chrono::Utc::now(),
        last_used: None,
        expires_at: made.key.expires_at,
        key: Some(made.secret.reveal()),
    };
    Ok((StatusCode::CREATED, private(), Json(shown)))
}

/// List API keys
///
/// Those of the team that are not revoked, newest first.
#[utoipa::path(get, path = "/v1/api-keys", tag = "keys", params(ListKeys), security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Vec<ApiKey>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Params(query): Params<ListKeys>,
) -> Result<Json<Vec<ApiKey>>, ApiError> {
    let rows = keys::list(&ctx, &person, team(query.team_id)?).await?;
    Ok(Json(rows.into_iter().map(shown).collect()))
}

/// Revoke an API key
///
/// It stops working within a second. Repeating it is no error.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "keys", params(ListKeys,
    ("id" = String, Path, description = "key- and 25 characters")), security(("session" = []), ("api_key" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn revoke(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Id(id): Id<KeyId>,
    Params(query): Params<ListKeys>,
) -> Result<StatusCode, ApiError> {
    keys::revoke(&ctx, &person, team(query.team_id)?, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Search people
///
/// Among those one shares a team with, at most ten.
#[utoipa::path(get, path = "/v1/users/search", tag = "teams", params(SearchUsers), security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Vec<FoundUser>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn search_users(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    Params(query): Params<SearchUsers>,
) -> Result<Json<Vec<FoundUser>>, ApiError> {
    let found = accounts::search(&ctx, &person, &query.email).await?;
    Ok(Json(found.into_iter().map(|(user, email)| FoundUser { user_id: user.to_string(), email }).collect()))
}

/// The team a request names, if it does.
pub(super) fn team(text: Option<String>) -> Result<Option<TeamId>, ApiError> {
    text.as_deref().map(parsed).transpose()
}

fn shown(row: KeyRow) -> ApiKey {
    ApiKey {
        id: row.id.to_string(),
        team_id: row.team.to_string(),
        name: row.name,
        key_prefix: row.prefix,
        created_by: row.created_by.map(|user| user.to_string()),
        creator_email: row.creator_email,
        personal: row.personal,
        created_at: row.created_at,
        last_used: row.last_used,
        expires_at: row.expires_at,
        key: None,
    }
}
