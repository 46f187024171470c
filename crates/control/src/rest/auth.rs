//! `/v1/auth`: sign-up, activation, login, the end of sessions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use wrenn_contract::rest::auth::{Activate, Login, Message, Session, SignUp, SwitchTeam};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_store::pg::SessionFacts;

use super::extract::{From, JsonBody, parsed};
use super::render::{private, role};
use crate::answer::ApiError;
use crate::auth::session::middleware::refuse_foreign_page;
use crate::auth::session::middleware::{RequireSession, clear_session_cookies, issue_session};
use crate::context::Context;
use crate::extension::context::ServerContext;
use crate::extension::hooks;
use crate::service::accounts::{self, CreateAccount};
use crate::service::{sessions, teams};
use wrenn_domain::account::Password;

/// Sign up
///
/// The answer is the same whether or not the address has an account; a mail to it says what to do.
#[utoipa::path(post, path = "/v1/auth/signup", tag = "accounts", request_body = SignUp,
    responses((status = 201, body = Message), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn sign_up(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    JsonBody(body): JsonBody<SignUp>,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    if let Some(password) = &body.password {
        parsed::<Password>(password)?;
    }
    let request = CreateAccount { email: parsed(&body.email)?, name: parsed(&body.name)? };
    accounts::sign_up(&ctx, from, request).await?;
    let message = "check your e-mail: a link there activates the account".to_owned();
    Ok((StatusCode::CREATED, Json(Message { message })))
}

/// Activate an account
///
/// Takes the token of the mail, once, and logs in. With `signup_hook_failed` nothing happened and the token still works.
#[utoipa::path(post, path = "/v1/auth/activate", tag = "accounts", request_body = Activate,
    responses((status = 200, body = Session), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn activate(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    head: Parts,
    JsonBody(body): JsonBody<Activate>,
) -> Result<(HeaderMap, Json<Session>), ApiError> {
    refuse_foreign_page(&head, &ctx)?;
    let password = body.password.as_deref().map(parsed::<Password>).transpose()?;
    let activated = accounts::activate(&ctx, from, &body.token, password.as_ref()).await?;
    begin(&ctx, &head, activated.user, Some(activated.team)).await
}

/// Log in
///
/// The session is in the cookies `wrenn_sid` and `wrenn_csrf`; a session the request came with ends.
#[utoipa::path(post, path = "/v1/auth/login", tag = "accounts", request_body = Login,
    responses((status = 200, body = Session), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn log_in(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    head: Parts,
    JsonBody(body): JsonBody<Login>,
) -> Result<(HeaderMap, Json<Session>), ApiError> {
    refuse_foreign_page(&head, &ctx)?;
    let user = accounts::log_in(&ctx, from, &body.email, &body.password).await?;
    let team = accounts::home(&ctx, user).await?;
    begin(&ctx, &head, user, team).await
}

/// Switch the team a session works in
///
/// The session is replaced by a new one.
#[utoipa::path(post, path = "/v1/auth/switch-team", tag = "accounts", request_body = SwitchTeam, security(("session" = [])),
    responses((status = 200, body = Session), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn switch_team(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    head: Parts,
    JsonBody(body): JsonBody<SwitchTeam>,
) -> Result<(HeaderMap, Json<Session>), ApiError> {
    let team: TeamId = parsed(&body.team_id)?;
    teams::get(&ctx, &user.person(), team).await?;
    let (headers, facts) = issue(&ctx, &head, user.user, Some(team)).await?;
    Ok((headers, Json(shown(&facts))))
}

/// Log out
#[utoipa::path(post, path = "/v1/auth/logout", tag = "accounts", security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn log_out(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    head: Parts,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    sessions::end(&ctx, user.user, &user.session).await?;
    Ok((StatusCode::NO_CONTENT, cleared(&ctx, &head)))
}

/// Log out everywhere
#[utoipa::path(post, path = "/v1/auth/logout-all", tag = "accounts", security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn log_out_all(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    head: Parts,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    sessions::end_all(&ctx, user.user).await?;
    Ok((StatusCode::NO_CONTENT, cleared(&ctx, &head)))
}

/// A login that worked: a session, and the hooks are told.
pub(super) async fn begin(
    ctx: &Arc<Context>,
    head: &Parts,
    user: UserId,
    team: Option<TeamId>,
) -> Result<(HeaderMap, Json<Session>), ApiError> {
    let (headers, facts) = issue(ctx, head, user, team).await?;
    hooks::on_login(ctx, user);
    Ok((headers, Json(shown(&facts))))
}

async fn issue(
    ctx: &Arc<Context>,
    head: &Parts,
    user: UserId,
    team: Option<TeamId>,
) -> Result<(HeaderMap, SessionFacts), ApiError> {
    let server = ServerContext::new(ctx.clone());
    let mut headers = private();
    let issued = issue_session(&server, head, &mut headers, user, team).await?;
    let shut = || Failure::new(FailureKind::Forbidden, "this account is not active");
    Ok((headers, issued.ok_or_else(shut)?))
}

/// Headers that take the session's cookies back.
pub(super) fn cleared(ctx: &Arc<Context>, head: &Parts) -> HeaderMap {
    let mut headers = private();
    clear_session_cookies(&ServerContext::new(ctx.clone()), head, &mut headers);
    headers
}

fn shown(facts: &SessionFacts) -> Session {
    Session {
        user_id: facts.user.to_string(),
        team_id: facts.team.map(|(team, _)| team.to_string()),
        email: facts.email.clone(),
        name: facts.name.clone(),
        role: facts.team.map(|(_, held)| role(held)),
        is_admin: facts.is_admin,
    }
}
