//! Session, CSRF and cookies in one place: three names, the guards as extractors and as layers, and the making and taking
//! back of a browser's session. Own routes and extensions use exactly this.
//!
//! ```ignore
//! use wrenn_control::auth::session::middleware::{RequireSession, require_admin};
//!
//! async fn invoices(RequireSession(user): RequireSession) -> String {
//!     format!("for {}", user.email)
//! }
//!
//! let routes = axum::Router::new()
//!     .route("/v1/billing/all", get(all).layer(from_fn_with_state(ctx.clone(), require_admin)))
//!     .route("/v1/billing", get(invoices))
//!     .with_state(ctx);
//! ```

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::request::Parts;
use wrenn_contract::rest::error::ErrorCode;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::role::Role;
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::pg::SessionFacts;

use super::{cookies, guards};
use crate::actor::{Actor, Person};
use crate::answer::ApiError;
use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::extension::context::ServerContext;
use crate::service::sessions::{self, Browser};

pub(crate) use cookies::{append as append_cookie, line as cookie_line, values as cookie_values};
pub(crate) use guards::{is_secure, refuse_foreign_page};

/// The user of a session.
#[derive(Debug, Clone)]
pub struct SessionUser {
    pub user: UserId,
    pub email: String,
    pub name: String,
    /// For display. [`RequireAdmin`] asks the database.
    pub is_admin: bool,
    /// The team worked in, with the role when looked up; none when the user is in no team.
    pub team: Option<(TeamId, Role)>,
    /// Names the session; no secret.
    pub session: SecretHash,
    secret: Secret,
}

/// Guard: a session. As an extractor of `axum` handlers, or see [`require_session`].
#[derive(Debug, Clone)]
pub struct RequireSession(pub SessionUser);

/// Guard: a session or an API key, in a team. See [`require_session_or_api_key`].
#[derive(Debug, Clone)]
pub struct RequireSessionOrApiKey(pub Arc<Actor>);

/// Guard: a person, by session or by a key that speaks for one.
#[derive(Debug, Clone)]
pub struct RequirePerson(pub Person);

/// Guard: the session of a platform admin; the database is asked at each request. See [`require_admin`].
#[derive(Debug, Clone)]
pub struct RequireAdmin(pub SessionUser);

impl SessionUser {
    fn of(found: &guards::Found) -> Self {
        let facts = found.facts();
        Self {
            user: facts.user,
            email: facts.email.clone(),
            name: facts.name.clone(),
            is_admin: facts.is_admin,
            team: facts.team,
            session: found.hash.clone(),
            secret: found.secret.clone(),
        }
    }

    /// The person, for service calls.
    pub fn person(&self) -> Person {
        Person { user: self.user, email: self.email.clone(), name: self.name.clone(), team: self.team }
    }

    /// Sets the cookies of this session again, for a browser that lost one.
    pub fn repeat_cookies(&self, headers: &mut HeaderMap, secure: bool) {
        cookies::set(headers, &self.secret, secure);
    }
}

fn context<S>(state: &S) -> Arc<Context>
where
    ServerContext: FromRef<S>,
{
    ServerContext::from_ref(state).inner().clone()
}

impl<S> FromRequestParts<S> for RequireSession
where
    S: Send + Sync,
    ServerContext: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ctx = context(state);
        Ok(Self(SessionUser::of(&guards::session(parts, &ctx).await?)))
    }
}

impl<S> FromRequestParts<S> for RequireSessionOrApiKey
where
    S: Send + Sync,
    ServerContext: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ctx = context(state);
        Ok(Self(guards::actor(parts, &ctx).await?))
    }
}

impl<S> FromRequestParts<S> for RequirePerson
where
    S: Send + Sync,
    ServerContext: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ctx = context(state);
        if parts.headers.contains_key("x-api-key") {
            let actor = guards::actor(parts, &ctx).await?;
            let text =
                "this needs a person: log in, or use the key that `wrenn login` makes; a team's key speaks for nobody";
            return actor.person().map(Self).ok_or_else(|| ApiError::new(ErrorCode::Forbidden, text));
        }
        Ok(Self(Person::of_session(guards::session(parts, &ctx).await?.facts())))
    }
}

impl<S> FromRequestParts<S> for RequireAdmin
where
    S: Send + Sync,
    ServerContext: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ctx = context(state);
        let user = SessionUser::of(&guards::session(parts, &ctx).await?);
        if !sessions::is_admin(&ctx, user.user).await? {
            return Err(ApiError::new(ErrorCode::Forbidden, "this is for platform admins"));
        }
        Ok(Self(user))
    }
}

/// Layer: lets sessions pass and puts a [`SessionUser`] into the request's extensions.
pub async fn require_session(State(ctx): State<ServerContext>, request: Request, next: Next) -> Response {
    pass::<RequireSession, _>(ctx, request, next, |guard| guard.0).await
}

/// Layer: lets sessions and keys pass and puts an `Arc<Actor>` into the request's extensions.
pub async fn require_session_or_api_key(State(ctx): State<ServerContext>, request: Request, next: Next) -> Response {
    pass::<RequireSessionOrApiKey, _>(ctx, request, next, |guard| guard.0).await
}

/// Layer: lets platform admins pass and puts a [`SessionUser`] into the request's extensions.
pub async fn require_admin(State(ctx): State<ServerContext>, request: Request, next: Next) -> Response {
    pass::<RequireAdmin, _>(ctx, request, next, |guard| guard.0).await
}

async fn pass<G, T>(ctx: ServerContext, request: Request, next: Next, take: impl FnOnce(G) -> T) -> Response
where
    G: FromRequestParts<ServerContext, Rejection = ApiError>,
    T: Clone + Send + Sync + 'static,
{
    let (mut parts, body) = request.into_parts();
    match G::from_request_parts(&mut parts, &ctx).await {
        Ok(guard) => {
            parts.extensions.insert(take(guard));
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Makes a session for an active user and sets its cookies on an answer. The session the request came with, if any, ends:
/// nobody who knew it before the login knows the one after it. None when the account is not active.
///
/// # Errors
/// When the system gives no random numbers or the database is away.
pub async fn issue_session(
    ctx: &ServerContext,
    request: &Parts,
    answer: &mut HeaderMap,
    user: UserId,
    team: Option<TeamId>,
) -> Result<Option<SessionFacts>, ApiError> {
    let ctx = ctx.inner();
    let before = match cookies::session_of(&request.headers, is_secure(request, ctx)) {
        cookies::SessionCookie::One(secret) => Some(secret.hash()),
        _ => None,
    };
    let issued = sessions::issue(ctx, &browser(request, ctx), user, team, before.as_ref()).await?;
    Ok(issued.map(|(secret, facts)| {
        cookies::set(answer, &secret, is_secure(request, ctx));
        facts
    }))
}

/// Takes both cookies back from a browser. The session itself lives until it is ended.
pub fn clear_session_cookies(ctx: &ServerContext, request: &Parts, answer: &mut HeaderMap) {
    cookies::clear(answer, is_secure(request, ctx.inner()));
}

fn browser(request: &Parts, ctx: &Context) -> Browser {
    let agent = request.headers.get(http::header::USER_AGENT).map(|value| value.as_bytes()).unwrap_or_default();
    Browser {
        user_agent: String::from_utf8_lossy(agent).into_owned(),
        address: ClientAddress::of(request, &ctx.config.accounts.trusted_proxies),
    }
}
