//! `/v1/me` and `/v1/whoami`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::me::{
    AskReset, ChangePassword, ConfirmReset, CredentialKind, DeleteMe, Me, RenameMe, SessionInfo, SessionList, WhoAmI,
};
use wrenn_domain::secret::SecretHash;

use super::auth::cleared;
use super::extract::{Caller, From, Id, JsonBody, parsed};
use super::render::private;
use super::render::role;
use crate::actor::Who;
use crate::answer::ApiError;
use crate::auth::session::middleware::{RequirePerson, RequireSession, is_secure};
use crate::context::Context;
use crate::service::{account_deletion, accounts, credentials, sessions, teams};

/// Show who the caller is
///
/// For every kind of credential: a session, a team's key, a person's key.
#[utoipa::path(get, path = "/v1/whoami", tag = "accounts", security(("api_key" = []), ("session" = [])),
    responses((status = 200, body = WhoAmI), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn who_am_i(State(ctx): State<Arc<Context>>, Caller(actor): Caller) -> Result<Json<WhoAmI>, ApiError> {
    let team_name = teams::name(&ctx, actor.team).await?;
    let (user_id, email, name, held) = match &actor.who {
        Who::Team => (None, None, None, None),
        Who::Person { user, email, name, role } => {
            (Some(user.to_string()), Some(email.clone()), Some(name.clone()), Some(*role))
        }
    };
    let credential = match (&actor.key, &actor.who) {
        (None, _) => CredentialKind::Session,
        (Some(_), Who::Team) => CredentialKind::TeamKey,
        (Some(_), Who::Person { .. }) => CredentialKind::PersonalKey,
    };
    Ok(Json(WhoAmI {
        credential,
        team_id: actor.team.to_string(),
        team_name,
        user_id,
        email,
        name,
        role: held.map(role),
        key_id: actor.key.as_ref().map(|key| key.id.to_string()),
        key_name: actor.key.as_ref().map(|key| key.name.clone()),
        expires_at: actor.key.as_ref().and_then(|key| key.expires_at),
    }))
}

/// Get the own account
///
/// With a session it sets the session's cookies again, for a page that lost the CSRF one.
#[utoipa::path(get, path = "/v1/me", tag = "accounts", security(("session" = []), ("api_key" = [])),
    responses((status = 200, body = Me), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn get(
    State(ctx): State<Arc<Context>>,
    RequirePerson(person): RequirePerson,
    session: Result<RequireSession, ApiError>,
    head: Parts,
) -> Result<Response, ApiError> {
    let profile = accounts::profile(&ctx, &person).await?;
    let me = Me {
        user_id: person.user.to_string(),
        team_id: person.team.map(|(team, _)| team.to_string()),
        name: profile.name,
        email: person.email,
        role: person.team.map(|(_, held)| role(held)),
        is_admin: profile.is_admin,
        has_password: profile.has_password,
        providers: profile.providers,
    };
    let mut headers = private();
    if let (Ok(RequireSession(user)), false) = (session, head.headers.contains_key("x-api-key")) {
        user.repeat_cookies(&mut headers, is_secure(&head, &ctx));
    }
    Ok((headers, Json(me)).into_response())
}

/// Change the own name
#[utoipa::path(patch, path = "/v1/me", tag = "accounts", request_body = RenameMe, security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn rename(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    JsonBody(body): JsonBody<RenameMe>,
) -> Result<StatusCode, ApiError> {
    accounts::rename(&ctx, &user.person(), &parsed(&body.name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change the own password
///
/// Ends every session, this one too.
#[utoipa::path(post, path = "/v1/me/password", tag = "accounts", request_body = ChangePassword, security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn change_password(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    head: Parts,
    JsonBody(body): JsonBody<ChangePassword>,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    let request = credentials::ChangePassword {
        current: body.current_password,
        new: parsed(&body.new_password)?,
        confirmed: body.confirm_password,
    };
    credentials::change(&ctx, &user.person(), request).await?;
    Ok((StatusCode::NO_CONTENT, cleared(&ctx, &head)))
}

/// Ask for a password reset
///
/// The answer is the same whether or not there is an account.
#[utoipa::path(post, path = "/v1/me/password/reset", tag = "accounts", request_body = AskReset,
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn ask_reset(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    JsonBody(body): JsonBody<AskReset>,
) -> Result<StatusCode, ApiError> {
    credentials::ask_reset(&ctx, from, &parsed(&body.email)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Set a new password by a mailed token
#[utoipa::path(post, path = "/v1/me/password/reset/confirm", tag = "accounts", request_body = ConfirmReset,
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn confirm_reset(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    JsonBody(body): JsonBody<ConfirmReset>,
) -> Result<StatusCode, ApiError> {
    credentials::confirm_reset(&ctx, from, &body.token, &parsed(&body.new_password)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the own sessions
#[utoipa::path(get, path = "/v1/me/sessions", tag = "accounts", security(("session" = [])),
    responses((status = 200, body = SessionList), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list_sessions(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
) -> Result<Json<SessionList>, ApiError> {
    let rows = sessions::list(&ctx, user.user).await?;
    let sessions = rows.into_iter().map(|row| SessionInfo {
        current: row.hash == user.session.as_str(),
        id: row.hash,
        user_agent: row.user_agent,
        ip_address: row.ip_address,
        created_at: row.created_at,
        last_seen_at: row.last_seen_at,
        expires_at: row.expires_at,
    });
    Ok(Json(SessionList { sessions: sessions.collect() }))
}

/// End one of the own sessions
///
/// One that is over is no error.
#[utoipa::path(delete, path = "/v1/me/sessions/{id}", tag = "accounts", security(("session" = [])),
    params(("id" = String, Path, description = "From the list")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn end_session(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    Id(hash): Id<SecretHash>,
    head: Parts,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    sessions::end(&ctx, user.user, &hash).await?;
    let headers = if hash == user.session { cleared(&ctx, &head) } else { HeaderMap::new() };
    Ok((StatusCode::NO_CONTENT, headers))
}

/// Delete the own account
///
/// It is shut at once and removed for good after 15 days.
#[utoipa::path(delete, path = "/v1/me", tag = "accounts", request_body = DeleteMe, security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    head: Parts,
    JsonBody(body): JsonBody<DeleteMe>,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    account_deletion::delete(&ctx, &user.person(), &body.confirmation).await?;
    Ok((StatusCode::NO_CONTENT, cleared(&ctx, &head)))
}
