//! Sessions: made, looked up, ended. Truth is in the database; this process remembers it for a second, Redis for all
//! processes a little longer, by generation, so that an end is known everywhere at once.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::{SESSION_SHARED_AGE_MAX, USER_AGENT_BYTES_MAX};
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::pg::{NewSession, SessionFacts, SessionRow};

use super::{redis_entries, revocation};
use crate::actor::Actor;
use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::error::ServiceError;
use crate::random;
use crate::state::session_cache::KnownSession;

/// Longest wait for Redis before the database is asked instead.
const SHARED_WAIT_MAX: Duration = Duration::from_millis(50);

/// Difference between the clocks of two control planes that is put up with.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(30);

/// Where a session is made for.
#[derive(Debug, Clone)]
pub struct Browser {
    pub user_agent: String,
    pub address: ClientAddress,
}

/// The session with this hash, if it is good.
///
/// # Errors
/// When the database cannot be asked.
pub async fn authenticate(ctx: &Context, hash: &SecretHash) -> Result<Option<Arc<KnownSession>>, ServiceError> {
    let entry = ctx.sessions.entry(hash);
    let look_up = || async {
        let facts = match shared(ctx, hash).await {
            Some(facts) => Some(facts),
            None => {
                let facts = ctx.store.session_get(hash).await?;
                if let Some(facts) = &facts {
                    share(ctx, hash, facts).await;
                }
                facts
            }
        };
        Ok::<_, ServiceError>(facts.map(|facts| {
            ctx.touches.session(hash);
            let actor = Actor::of_session(hash, &facts).map(Arc::new);
            Arc::new(KnownSession { facts, actor })
        }))
    };
    let known = entry.get_or_try_init(look_up).await?.clone();
    Ok(known.filter(|known| known.facts.expires_at > Utc::now()))
}

/// Whether an account is a platform admin now.
///
/// # Errors
/// When the database cannot be asked.
pub async fn is_admin(ctx: &Context, user: UserId) -> Result<bool, ServiceError> {
    Ok(ctx.store.user_is_admin(user).await?)
}

/// Makes a session for an active account; the one before ends. None when the account is not active.
///
/// # Errors
/// When the system gives no random numbers or the database is away.
pub async fn issue(
    ctx: &Context,
    browser: &Browser,
    user: UserId,
    team: Option<TeamId>,
    before: Option<&SecretHash>,
) -> Result<Option<(Secret, SessionFacts)>, ServiceError> {
    let secret = random::secret()?;
    let new = NewSession {
        hash: secret.hash(),
        user,
        team,
        user_agent: clipped(&browser.user_agent),
        ip_address: browser.address.to_string(),
    };
    // Whoever the session before belongs to, nobody may go on with it.
    if let Some(before) = before
        && let Some(known) = authenticate(ctx, before).await?
    {
        end(ctx, known.facts.user, before).await?;
    }
    let facts = ctx.store.session_create(&new, before).await?;
    Ok(facts.map(|facts| (secret, facts)))
}

/// Ends one session of a user. Ending one that is over is no error.
///
/// # Errors
/// When the database cannot be asked.
pub async fn end(ctx: &Context, user: UserId, hash: &SecretHash) -> Result<(), ServiceError> {
    let generation = ctx.store.session_end(user, hash).await?;
    revocation::forget_sessions(ctx, user, generation).await;
    Ok(())
}

/// Ends all sessions of a user.
///
/// # Errors
/// When the database cannot be asked.
pub async fn end_all(ctx: &Context, user: UserId) -> Result<(), ServiceError> {
    let generation = ctx.store.session_end_all(user).await?;
    revocation::forget_sessions(ctx, user, generation).await;
    Ok(())
}

/// A user's sessions, newest use first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(ctx: &Context, user: UserId) -> Result<Vec<SessionRow>, ServiceError> {
    Ok(ctx.store.session_list(user).await?)
}

#[derive(Serialize, Deserialize)]
struct Shared {
    user: UserId,
    email: String,
    name: String,
    is_admin: bool,
    team: Option<(TeamId, String)>,
    generation: i64,
    expires_at: DateTime<Utc>,
    shared_at: DateTime<Utc>,
}

/// Key that the code of a session's entry is bound to.
fn entry_key(hash: &SecretHash) -> String {
    format!("session:{hash}")
}

async fn shared(ctx: &Context, hash: &SecretHash) -> Option<SessionFacts> {
    if ctx.sessions.redis_rests() {
        return None;
    }
    let Ok(Ok(found)) = tokio::time::timeout(SHARED_WAIT_MAX, ctx.redis.session_get(hash)).await else {
        ctx.sessions.let_redis_rest();
        return None;
    };
    let found = found?;
    let text = redis_entries::verify(ctx, &entry_key(hash), &found).await.ok()??;
    let shared: Shared = serde_json::from_str(text).ok()?;
    // One that is older than any entry lives was put back by somebody.
    let age = Utc::now().signed_duration_since(shared.shared_at).abs().to_std().ok()?;
    if age > SESSION_SHARED_AGE_MAX + CLOCKS_APART_MAX {
        return None;
    }
    let team = match shared.team {
        None => None,
        Some((team, role)) => Some((team, role.parse().ok()?)),
    };
    Some(SessionFacts {
        user: shared.user,
        email: shared.email,
        name: shared.name,
        is_admin: shared.is_admin,
        team,
        generation: shared.generation,
        expires_at: shared.expires_at,
    })
}

async fn share(ctx: &Context, hash: &SecretHash, facts: &SessionFacts) {
    if ctx.sessions.redis_rests() {
        return;
    }
    let shared = Shared {
        user: facts.user,
        email: facts.email.clone(),
        name: facts.name.clone(),
        is_admin: facts.is_admin,
        team: facts.team.map(|(team, role)| (team, role.as_str().to_owned())),
        generation: facts.generation,
        expires_at: facts.expires_at,
        shared_at: Utc::now(),
    };
    let Ok(body) = serde_json::to_string(&shared) else { return };
    let Ok(body) = redis_entries::sign(ctx, &entry_key(hash), &body).await else { return };
    let user = facts.user.to_string();
    let put = ctx.redis.session_put(hash, &user, facts.generation, &body);
    if !matches!(tokio::time::timeout(SHARED_WAIT_MAX, put).await, Ok(Ok(()))) {
        ctx.sessions.let_redis_rest();
    }
}

fn clipped(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=USER_AGENT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
