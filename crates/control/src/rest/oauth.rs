//! `/auth/oauth`: browsers on their way to another site and back; linking such sites to an account.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use wrenn_contract::rest::auth::{BeginOAuth, OAuthCallback};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::me::ConnectProvider;
use wrenn_domain::limits::OAUTH_AGE_MAX;
use wrenn_domain::secret::Secret;

use super::auth::begin;
use super::extract::{From, Params, ProviderName};
use super::render::private;
use crate::answer::ApiError;
use crate::auth::session::middleware::{RequireSession, append_cookie, cookie_line, cookie_values, is_secure};
use crate::auth::session::names::cookie_name;
use crate::context::Context;
use crate::service::accounts;
use crate::service::oauth::{self, Ended, Returned};

/// Binds a round trip to one browser. Lax, not Strict: it must come along when the other site sends the browser back.
const BROWSER_COOKIE: &str = "wrenn_oauth";
/// Tells the frontend, for a minute, that the login was a sign-up.
const NEW_COOKIE: &str = "wrenn_oauth_new_signup";

/// Log in by another site
///
/// Sends the browser there.
#[utoipa::path(get, path = "/auth/oauth/{provider}", tag = "accounts", params(BeginOAuth,
    ("provider" = String, Path, description = "Such as github")),
    responses((status = 302), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn start(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    ProviderName(provider): ProviderName,
    Params(query): Params<BeginOAuth>,
    head: Parts,
) -> Result<Response, ApiError> {
    let begun = oauth::begin(&ctx, from, &provider, query.intent.as_deref()).await?;
    let mut headers = private();
    keep_browser(&ctx, &head, &mut headers, &begun.browser);
    Ok(found(headers, &begun.url))
}

/// Come back from another site
///
/// Always sends the browser on to the frontend, with `error` in the query when it did not work.
#[utoipa::path(get, path = "/auth/oauth/{provider}/callback", tag = "accounts", params(OAuthCallback,
    ("provider" = String, Path, description = "Such as github")),
    responses((status = 302), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn callback(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    ProviderName(provider): ProviderName,
    Params(query): Params<OAuthCallback>,
    head: Parts,
) -> Result<Response, ApiError> {
    let returned =
        Returned { code: query.code, state: query.state, error: query.error, browser: browser_of(&ctx, &head) };
    let ended = oauth::finish(&ctx, from, &provider, returned).await?;
    let secure = is_secure(&head, &ctx);
    let base = &ctx.config.accounts.frontend_url;
    let mut headers = private();
    let location = match ended {
        Ended::LoggedIn { user, new } => {
            let team = accounts::home(&ctx, user).await?;
            // A session that cannot be made now is a failed login like any other: the browser must not end here.
            match begin(&ctx, &head, user, team).await {
                Ok((session, _)) => {
                    headers = session;
                    if new {
                        append_cookie(&mut headers, &cookie_line(NEW_COOKIE, "1", "Lax", 60, secure, false));
                    }
                    format!("{base}/auth/{provider}/callback")
                }
                Err(_) => format!("{base}/auth/{provider}/callback?error=account_deactivated"),
            }
        }
        Ended::Linked => format!("{base}/dashboard/settings?connected={provider}"),
        Ended::Failed { link: true, word } => format!("{base}/dashboard/settings?connect_error={word}"),
        Ended::Failed { link: false, word } => format!("{base}/auth/{provider}/callback?error={word}"),
    };
    append_cookie(&mut headers, &cookie_line(BROWSER_COOKIE, "", "Lax", 0, secure, true));
    Ok(found(headers, &location))
}

/// Link another site to the own account
///
/// Answers where to send the browser.
#[utoipa::path(get, path = "/v1/me/providers/{provider}/connect", tag = "accounts", security(("session" = [])),
    params(("provider" = String, Path, description = "Such as github")),
    responses((status = 200, body = ConnectProvider), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn connect(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    ProviderName(provider): ProviderName,
    head: Parts,
) -> Result<(HeaderMap, Json<ConnectProvider>), ApiError> {
    let begun = oauth::begin_link(&ctx, &user.person(), &user.session, &provider).await?;
    let mut headers = private();
    keep_browser(&ctx, &head, &mut headers, &begun.browser);
    Ok((headers, Json(ConnectProvider { auth_url: begun.url })))
}

/// Unlink another site
///
/// Refused when nothing else leads into the account.
#[utoipa::path(delete, path = "/v1/me/providers/{provider}", tag = "accounts", security(("session" = [])),
    params(("provider" = String, Path, description = "Such as github")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn disconnect(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    ProviderName(provider): ProviderName,
) -> Result<StatusCode, ApiError> {
    oauth::unlink(&ctx, &user.person(), &provider).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn keep_browser(ctx: &Context, head: &Parts, headers: &mut HeaderMap, browser: &Secret) {
    let age = OAUTH_AGE_MAX.as_secs();
    append_cookie(headers, &cookie_line(BROWSER_COOKIE, &browser.reveal(), "Lax", age, is_secure(head, ctx), true));
}

/// The one browser cookie there is; of several nobody knows whose they are.
fn browser_of(ctx: &Context, head: &Parts) -> Option<Secret> {
    let name = cookie_name(BROWSER_COOKIE, is_secure(head, ctx));
    let mut all = cookie_values(&head.headers, &name);
    match (all.next(), all.next()) {
        (Some(one), None) => one.parse().ok(),
        _ => None,
    }
}

fn found(mut headers: HeaderMap, location: &str) -> Response {
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(LOCATION, location);
    }
    (StatusCode::FOUND, headers).into_response()
}
