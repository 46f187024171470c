//! Sessions: made, looked up, ended. Truth is in the database; this process remembers it for a second, Redis for all
//! processes a little longer, by generation, so that an end is known everywhere at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::{SESSION_CACHE_AGE_MAX, SESSION_CACHE_ENTRIES_MAX, USER_AGENT_BYTES_MAX};
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::pg::{Ended, NewSession, SessionFacts, SessionRow};

use super::{Actor, ServiceError, chance, keys};
use crate::auth::address::ClientAddress;
use crate::causes::chain;
use crate::context::Context;

/// Longest wait for Redis before the database is asked instead.
const SHARED_WAIT_MAX: Duration = Duration::from_millis(50);
/// How long Redis is left alone after it failed.
const SHARED_REST: Duration = Duration::from_secs(2);

/// A session that is good.
#[derive(Debug)]
pub struct Known {
    pub facts: SessionFacts,
    /// None while the user is in no team.
    pub actor: Option<Arc<Actor>>,
}

/// Where a session is made for.
#[derive(Debug, Clone)]
pub struct Browser {
    pub user_agent: String,
    pub address: ClientAddress,
}

/// What this process remembers of sessions. Many requests of one session cause one look.
pub struct SessionCache {
    entries: Mutex<HashMap<SecretHash, Arc<Looked>>>,
    began: Instant,
    /// Milliseconds since `began` until which Redis is left alone.
    rest_until: AtomicU64,
}

struct Looked {
    at: Instant,
    known: OnceCell<Option<Arc<Known>>>,
}

impl Default for SessionCache {
    fn default() -> Self {
        Self { entries: Mutex::default(), began: Instant::now(), rest_until: AtomicU64::new(0) }
    }
}

impl SessionCache {
    /// Forgets every session of a user.
    pub fn forget(&self, user: &str) {
        let gone = |looked: &Arc<Looked>| match looked.known.get() {
            Some(Some(known)) => known.facts.user.to_string() == user,
            Some(None) => false,
            // Being looked up: what it will find may be older than the news.
            None => true,
        };
        self.entries.lock().expect("no panic while held").retain(|_, looked| !gone(looked));
    }

    fn entry(&self, hash: &SecretHash) -> Arc<Looked> {
        let mut entries = self.entries.lock().expect("no panic while held");
        if let Some(fresh) = entries.get(hash).filter(|e| e.at.elapsed() < SESSION_CACHE_AGE_MAX) {
            return fresh.clone();
        }
        if entries.len() >= SESSION_CACHE_ENTRIES_MAX {
            entries.retain(|_, e| e.at.elapsed() < SESSION_CACHE_AGE_MAX);
            if entries.len() >= SESSION_CACHE_ENTRIES_MAX {
                entries.clear();
            }
        }
        let entry = Arc::new(Looked { at: Instant::now(), known: OnceCell::new() });
        entries.insert(hash.clone(), entry.clone());
        entry
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn redis_rests(&self) -> bool {
        self.now_ms() < self.rest_until.load(Ordering::Relaxed)
    }

    fn let_redis_rest(&self) {
        self.rest_until.store(self.now_ms() + SHARED_REST.as_millis() as u64, Ordering::Relaxed);
    }
}

/// The session with this hash, if it is good.
pub async fn authenticate(ctx: &Context, hash: &SecretHash) -> Result<Option<Arc<Known>>, ServiceError> {
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
            Arc::new(Known { facts, actor })
        }))
    };
    let known = entry.known.get_or_try_init(look_up).await?.clone();
    Ok(known.filter(|known| known.facts.expires_at > Utc::now()))
}

/// Whether an account is a platform admin now.
pub async fn is_admin(ctx: &Context, user: UserId) -> Result<bool, ServiceError> {
    Ok(ctx.store.user_is_admin(user).await?)
}

/// Makes a session for an active account; the one before ends. None when the account is not active.
pub async fn issue(
    ctx: &Context,
    browser: &Browser,
    user: UserId,
    team: Option<TeamId>,
    before: Option<&SecretHash>,
) -> Result<Option<(Secret, SessionFacts)>, ServiceError> {
    let secret = chance::secret()?;
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
pub async fn end(ctx: &Context, user: UserId, hash: &SecretHash) -> Result<(), ServiceError> {
    let generation = ctx.store.session_end(user, hash).await?;
    tell(ctx, user, generation).await;
    Ok(())
}

/// Ends all sessions of a user.
pub async fn end_all(ctx: &Context, user: UserId) -> Result<(), ServiceError> {
    let generation = ctx.store.session_end_all(user).await?;
    tell(ctx, user, generation).await;
    Ok(())
}

/// A user's sessions, newest use first.
pub async fn list(ctx: &Context, user: UserId) -> Result<Vec<SessionRow>, ServiceError> {
    Ok(ctx.store.session_list(user).await?)
}

/// Makes every cache forget what it knows of these users and keys. The database has it already; this only makes it sooner.
pub async fn forget(ctx: &Context, ended: &Ended) {
    for user in &ended.users {
        match ctx.store.session_generation(*user).await {
            // Purged: nothing of it can be found any more.
            Ok(None) => ctx.sessions.forget(&user.to_string()),
            Ok(Some(generation)) => tell(ctx, *user, generation).await,
            Err(error) => {
                ctx.sessions.forget(&user.to_string());
                tracing::warn!(%user, error = %chain(&error), "other control planes learn of an ended session by age only");
            }
        }
    }
    keys::forget(ctx, &ended.keys).await;
}

/// The same for one user whose cached facts are old.
pub async fn forget_user(ctx: &Context, user: UserId) {
    forget(ctx, &Ended { keys: Vec::new(), users: vec![user] }).await;
}

async fn tell(ctx: &Context, user: UserId, generation: i64) {
    let user = user.to_string();
    ctx.sessions.forget(&user);
    if let Err(error) = ctx.haste.sessions_changed(&user, generation).await {
        tracing::warn!(user, error = %chain(&error), "other control planes learn of an ended session by age only");
    }
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
}

async fn shared(ctx: &Context, hash: &SecretHash) -> Option<SessionFacts> {
    if ctx.sessions.redis_rests() {
        return None;
    }
    let Ok(Ok(found)) = tokio::time::timeout(SHARED_WAIT_MAX, ctx.haste.session_get(hash)).await else {
        ctx.sessions.let_redis_rest();
        return None;
    };
    let shared: Shared = serde_json::from_str(&found?).ok()?;
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
    };
    let Ok(body) = serde_json::to_string(&shared) else { return };
    let user = facts.user.to_string();
    let put = ctx.haste.session_put(hash, &user, facts.generation, &body);
    if !matches!(tokio::time::timeout(SHARED_WAIT_MAX, put).await, Ok(Ok(()))) {
        ctx.sessions.let_redis_rest();
    }
}

fn clipped(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=USER_AGENT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
