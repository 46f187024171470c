//! Logging in, signing up and linking by another site.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use wrenn_domain::ErrorCode;
use wrenn_domain::account::{Email, PersonName};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{PLATFORM_TEAM, TeamId, UserId};
use wrenn_domain::limits::OAUTH_AGE_MAX;
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::pg::{
    Author, Identity, Linked, NewAudit, OAuthIntent, OAuthSignedUp, OAuthState, Unlinked, UserStatus,
};

use super::accounts::{self, activation_audit};
use super::rates::{self, Limited};
use super::sessions;
use crate::actor::Person;
use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::error::ServiceError;
use crate::error_chain::chain;
use crate::extension::hooks;
use crate::extension::plugin::NewAccount;
use crate::oauth::{AuthorizeRequest, CodeGrant, OAuthProvider, Profile};
use crate::random;

/// A round trip that begins: where to send the browser, and what it must bring back.
#[derive(Debug)]
pub struct Begun {
    pub url: String,
    /// For a cookie of this browser.
    pub browser: Secret,
}

/// Parts of the return from a provider: what it sent back, and what the browser had kept.
#[derive(Debug, Clone, Default)]
pub struct Returned {
    pub code: Option<String>,
    pub state: Option<String>,
    pub error: Option<String>,
    pub browser: Option<Secret>,
}

/// How a round trip ended.
#[derive(Debug)]
pub enum Ended {
    LoggedIn {
        user: UserId,
        new: bool,
    },
    Linked,
    /// A word for the frontend. `link`: it was to link an account.
    Failed {
        link: bool,
        word: &'static str,
    },
}

/// Word for the frontend: the round trip is not one that was begun here. It is spelt like the error code.
const INVALID_STATE: &str = ErrorCode::InvalidState.as_str();
/// Word for the frontend: a part of the distribution refused the account. It is spelt like the error code.
const SIGNUP_HOOK_FAILED: &str = ErrorCode::SignupHookFailed.as_str();

/// The provider of this name.
fn provider(ctx: &Context, name: &str) -> Result<Arc<dyn OAuthProvider>, Failure> {
    ctx.oauth.get(name).ok_or_else(|| Failure::not_found("there is no such login provider"))
}

/// Begins a login or sign-up.
///
/// # Errors
/// When there is no such provider, it is tried too often, or the database is away.
pub async fn begin(
    ctx: &Context,
    from: ClientAddress,
    name: &str,
    intent: Option<&str>,
) -> Result<Begun, ServiceError> {
    let provider = provider(ctx, name)?;
    rates::take_address(ctx, Limited::OAuth, from).await?;
    let intent = match intent {
        None | Some("login") => OAuthIntent::Login,
        Some("signup") => OAuthIntent::Signup,
        Some(_) => return Err(Failure::invalid("intent: login or signup").into()),
    };
    start(ctx, &*provider, intent, None).await
}

/// Begins to link the caller's account; only this session, in this browser, can end it.
///
/// # Errors
/// When there is no such provider, it is tried too often, or the database is away.
pub async fn begin_link(
    ctx: &Context,
    person: &Person,
    session: &SecretHash,
    name: &str,
) -> Result<Begun, ServiceError> {
    let provider = provider(ctx, name)?;
    rates::take_account(ctx, Limited::OAuth, &person.user.to_string()).await?;
    start(ctx, &*provider, OAuthIntent::Link, Some((person.user, session.clone()))).await
}

async fn start(
    ctx: &Context,
    provider: &dyn OAuthProvider,
    intent: OAuthIntent,
    link: Option<(UserId, SecretHash)>,
) -> Result<Begun, ServiceError> {
    let (state, browser, verifier) = (random::secret()?, random::secret()?, random::secret()?.reveal());
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let (link_user, session) = link.unzip();
    let stored = OAuthState {
        hash: state.hash(),
        browser: browser.hash(),
        provider: provider.name().to_owned(),
        intent,
        link_user,
        session,
        pkce_verifier: verifier,
    };
    ctx.store.oauth_state_put(&stored, OAUTH_AGE_MAX).await?;
    let redirect_uri = redirect_uri(ctx, provider.name());
    let url =
        provider.authorize_url(&AuthorizeRequest { redirect_uri, state: state.reveal(), code_challenge: challenge });
    Ok(Begun { url, browser })
}

fn redirect_uri(ctx: &Context, provider: &str) -> String {
    let accounts = &ctx.config.accounts;
    let base = accounts.public_url.as_ref().unwrap_or(&accounts.frontend_url);
    format!("{base}/auth/oauth/{provider}/callback")
}

/// Ends a round trip.
///
/// # Errors
/// When there is no such provider, it is tried too often, or the database is away. A login that is refused is no error but an end.
pub async fn finish(ctx: &Context, from: ClientAddress, name: &str, returned: Returned) -> Result<Ended, ServiceError> {
    let failed = |word| Ok(Ended::Failed { link: false, word });
    let provider = provider(ctx, name)?;
    rates::take_address(ctx, Limited::OAuth, from).await?;
    // State first: nothing else in the query is believed without it.
    let state = returned.state.and_then(|text| text.parse::<Secret>().ok());
    let Some((state, browser)) = state.zip(returned.browser) else { return failed(INVALID_STATE) };
    let Some(state) = ctx.store.oauth_state_take(&state.hash(), &browser.hash(), name).await? else {
        return failed(INVALID_STATE);
    };
    let link = state.intent == OAuthIntent::Link;
    let failed = |word| Ok(Ended::Failed { link, word });
    if returned.error.is_some() {
        return failed("access_denied");
    }
    let Some(code) = returned.code.filter(|code| !code.is_empty() && code.len() <= 2048) else {
        return failed("missing_code");
    };
    let grant = CodeGrant { code, redirect_uri: redirect_uri(ctx, name), code_verifier: state.pkce_verifier.clone() };
    let profile = match provider.identify(&grant).await {
        Ok(profile) => profile,
        Err(error) => {
            tracing::warn!(provider = name, error = %chain(&error), "an OAuth login cannot be finished");
            return failed("exchange_failed");
        }
    };
    match (state.intent, state.link_user.zip(state.session)) {
        (OAuthIntent::Link, Some((user, session))) => finish_link(ctx, name, user, &session, profile).await,
        (OAuthIntent::Link, None) => failed(INVALID_STATE),
        (intent, _) => finish_login(ctx, name, intent, profile).await,
    }
}

async fn finish_login(ctx: &Context, name: &str, intent: OAuthIntent, profile: Profile) -> Result<Ended, ServiceError> {
    let failed = |word| Ok(Ended::Failed { link: false, word });
    if let Some(known) = ctx.store.oauth_user(name, &profile.id).await? {
        return Ok(match known.status {
            UserStatus::Active => Ended::LoggedIn { user: known.id, new: false },
            _ => Ended::Failed { link: false, word: "account_deactivated" },
        });
    }
    let Some(email) = profile.verified_email.as_deref().and_then(|text| text.parse::<Email>().ok()) else {
        return failed("invalid_email");
    };
    let owner = ctx.store.user_by_email(&email).await?;
    // Only who proves the account's own password or session may link to it; the address alone is not enough.
    if owner.is_some_and(|owner| owner.status != UserStatus::Inactive) {
        return failed("email_taken");
    }
    if intent == OAuthIntent::Login {
        return failed("no_account");
    }
    if accounts::admit_strangers(ctx).is_err() {
        return failed("signup_closed");
    }
    let person = person_name(&profile.name, &email)?;
    let (user, team) = (UserId::from_uuid(random::id()), TeamId::from_uuid(random::id()));
    let account = NewAccount { user, team, email: email.to_string(), name: person.to_string() };
    if hooks::on_signup(ctx, &account).await.is_err() {
        return failed(SIGNUP_HOOK_FAILED);
    }
    let author =
        Author { kind: wrenn_domain::event::ActorType::User, id: Some(user.to_string()), name: email.to_string() };
    let identity = Identity { provider: name.to_owned(), id: profile.id, email };
    let audit = activation_audit(team, &author, name);
    let made = ctx.store.oauth_sign_up((user, team), &identity, &person, &random::slug()?, &audit).await?;
    match made {
        OAuthSignedUp::Done(made) => Ok(Ended::LoggedIn { user: made.user, new: true }),
        OAuthSignedUp::EmailTaken => failed("email_taken"),
        // Somebody with this identity was quicker: the same person, in another tab.
        OAuthSignedUp::Known => match ctx.store.oauth_user(name, &identity.id).await? {
            Some(known) if known.status == UserStatus::Active => Ok(Ended::LoggedIn { user: known.id, new: false }),
            _ => failed("account_deactivated"),
        },
    }
}

async fn finish_link(
    ctx: &Context,
    name: &str,
    user: UserId,
    session: &SecretHash,
    profile: Profile,
) -> Result<Ended, ServiceError> {
    let failed = |word| Ok(Ended::Failed { link: true, word });
    let living = sessions::authenticate(ctx, session).await?.is_some_and(|known| known.facts.user == user);
    if !living {
        return failed(INVALID_STATE);
    }
    let Some(account) = ctx.store.user_get(user).await? else { return failed(INVALID_STATE) };
    let email = profile.verified_email.as_deref().unwrap_or(&account.email);
    let Ok(email) = email.parse::<Email>() else { return failed("invalid_email") };
    let identity = Identity { provider: name.to_owned(), id: profile.id, email };
    let audit = link_audit(&super::accounts::author_of(&account), user, "link", name);
    Ok(match ctx.store.oauth_link(user, &identity, &[audit]).await? {
        Linked::Done => Ended::Linked,
        Linked::Already => Ended::Failed { link: true, word: "already_linked" },
        Linked::Gone => Ended::Failed { link: true, word: INVALID_STATE },
    })
}

/// Unlinks a provider from the caller's account.
///
/// # Errors
/// When it is not linked, is the only way into the account, or the database is away.
pub async fn unlink(ctx: &Context, person: &Person, name: &str) -> Result<(), ServiceError> {
    let audit = link_audit(&person.author(), person.user, "unlink", name);
    match ctx.store.oauth_unlink(person.user, name, &[audit]).await? {
        Unlinked::Done => Ok(()),
        Unlinked::NotLinked => Err(Failure::not_found("this provider is not linked to your account").into()),
        Unlinked::OnlyLogin => {
            let text = "this is the only way into your account; set a password or link another provider first";
            Err(Failure::new(FailureKind::Invalid, text).into())
        }
    }
}

fn link_audit(author: &Author, user: UserId, action: &'static str, provider: &str) -> NewAudit {
    NewAudit::new(PLATFORM_TEAM, author.clone(), "user", action).on(user).for_admins().with("provider", provider)
}

/// A name from elsewhere, made to keep our rules.
fn person_name(given: &str, email: &Email) -> Result<PersonName, Failure> {
    let allowed = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '\'');
    let tidy: String = given.chars().filter(allowed).take(100).collect();
    if let Ok(name) = tidy.parse() {
        return Ok(name);
    }
    let local: String = email.as_str().split('@').next().unwrap_or_default().chars().filter(allowed).collect();
    local.parse().or_else(|_| "New user".parse())
}
