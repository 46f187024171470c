//! The judgement behind the guards: from a request's head to somebody, or a refusal.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq;
use wrenn_contract::rest::error::ErrorCode;
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::pg::SessionFacts;

use super::cookies::{SessionCookie, csrf_of, session_of};
use super::names::CSRF_HEADER_NAME;
use crate::actor::Actor;
use crate::answer::ApiError;
use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::service::{keys, sessions};
use crate::state::session_cache::KnownSession;

/// A request's session.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) secret: Secret,
    pub(super) hash: SecretHash,
    pub(super) known: Arc<KnownSession>,
}

impl Found {
    pub(super) fn facts(&self) -> &SessionFacts {
        &self.known.facts
    }
}

/// The session of a request, with the CSRF rule kept.
pub(super) async fn session(parts: &Parts, ctx: &Context) -> Result<Found, ApiError> {
    let secret = match session_of(&parts.headers, is_secure(parts, ctx)) {
        SessionCookie::One(secret) => secret,
        SessionCookie::Absent => return Err(refused("log in first")),
        SessionCookie::Malformed => return Err(refused("the session is not valid; log in again")),
        SessionCookie::Ambiguous => {
            return Err(refused("the browser sent several different session cookies; clear them and log in again"));
        }
    };
    let hash = secret.hash();
    let known = sessions::authenticate(ctx, &hash).await?;
    let known = known.ok_or_else(|| refused("the session is over; log in again"))?;
    if is_unsafe(&parts.method) {
        check_csrf(&parts.headers, &secret)?;
    }
    if parts.headers.contains_key(header::UPGRADE) {
        check_origin(&parts.headers, ctx)?;
    }
    Ok(Found { secret, hash, known })
}

/// Whoever may use a team: by the key if there is one, and by it alone; else by the session.
pub(super) async fn actor(parts: &Parts, ctx: &Context) -> Result<Arc<Actor>, ApiError> {
    if let Some(key) = parts.headers.get("x-api-key") {
        let network = ClientAddress::of(parts, &ctx.config.accounts.trusted_proxies).network();
        return Ok(keys::authenticate(ctx, &network, key.to_str().unwrap_or_default()).await?);
    }
    if matches!(session_of(&parts.headers, is_secure(parts, ctx)), SessionCookie::Absent) {
        return Err(refused("send your API key in the header X-API-Key, or log in"));
    }
    let found = session(parts, ctx).await?;
    found.known.actor.clone().ok_or_else(no_team)
}

/// A session whose user is in no team has nothing to work in.
pub(super) fn no_team() -> ApiError {
    ApiError::new(ErrorCode::Forbidden, "you are in no team; create one or switch to one of yours")
}

pub(super) fn refused(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

/// Whether cookies of this answer may travel over TLS only.
pub(crate) fn is_secure(request: &Parts, ctx: &Context) -> bool {
    let accounts = &ctx.config.accounts;
    let public = accounts.public_url.as_deref().is_some_and(|url| url.starts_with("https://"));
    public || ClientAddress::of(request, &accounts.trusted_proxies).is_tls()
}

fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The header must hold the token of this very session. The cookie is only how scripts learn it: a cookie set from
/// elsewhere proves nothing.
fn check_csrf(headers: &HeaderMap, session: &Secret) -> Result<(), ApiError> {
    let sent = headers.get(CSRF_HEADER_NAME).map(|value| value.as_bytes()).unwrap_or_default();
    let expected = csrf_of(session).reveal();
    if bool::from(sent.ct_eq(expected.as_bytes())) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Forbidden,
        "the CSRF token is missing or not this session's; send the cookie wrenn_csrf in the header X-CSRF-Token",
    ))
}

/// Whether an origin is the frontend's or this server's own, as the settings name them.
fn is_ours(origin: &str, ctx: &Context) -> bool {
    let accounts = &ctx.config.accounts;
    let ours = [Some(&accounts.frontend_url), accounts.public_url.as_ref()];
    ours.into_iter().flatten().any(|url| url.eq_ignore_ascii_case(origin))
}

/// Refuses what a page of another site, or of a sibling host, has the browser do: it would log the person into an account of its choice.
/// Programs send no such header.
pub(crate) fn refuse_foreign_page(parts: &Parts, ctx: &Context) -> Result<(), ApiError> {
    let site = parts.headers.get("sec-fetch-site").map(|value| value.as_bytes());
    let origin = parts.headers.get(header::ORIGIN).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match site {
        Some(b"cross-site" | b"same-site") if !is_ours(origin, ctx) => {
            Err(ApiError::new(ErrorCode::Forbidden, "a page of another site may not log anybody in here"))
        }
        _ => Ok(()),
    }
}

/// Browsers open WebSockets across origins and send cookies along; CSRF tokens cannot be sent. So the page must be ours.
fn check_origin(headers: &HeaderMap, ctx: &Context) -> Result<(), ApiError> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else {
        return Err(ApiError::new(ErrorCode::Forbidden, "a WebSocket opened with a session needs an Origin header"));
    };
    let accounts = &ctx.config.accounts;
    let named = is_ours(origin, ctx);
    // Without a public address the request's own Host is the best there is; a page elsewhere cannot choose it.
    let host = text(header::HOST).unwrap_or_default();
    let same_host = accounts.public_url.is_none()
        && !host.is_empty()
        && origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
    if named || same_host {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Forbidden, "this page's origin may not open WebSockets here"))
}
