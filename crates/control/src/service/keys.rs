//! API keys: who a key speaks for, looked up at most once a second per key; making, listing and taking back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use tokio::sync::OnceCell;
use wrenn_domain::account::KeyName;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{KeyId, TeamId};
use wrenn_domain::key::{ApiKey, ApiKeyHash};
use wrenn_domain::limits::{KEY_CACHE_AGE_MAX, KEY_CACHE_ENTRIES_MAX, KEY_DAYS_MAX, KEYS_PER_TEAM_MAX};
use wrenn_store::Store;
use wrenn_store::pg::{Author, KeyRow, NewAudit, NewKey, TeamAct};

use super::rates::{self, Limited};
use super::{Actor, Person, ServiceError, chance, teams};
use crate::causes::chain;
use crate::context::Context;

/// Looked-up keys. Many callers with one key cause one query.
#[derive(Default)]
pub struct KeyCache(Mutex<HashMap<ApiKeyHash, Arc<Looked>>>);

struct Looked {
    at: Instant,
    actor: OnceCell<Option<Arc<Actor>>>,
}

impl KeyCache {
    /// Forgets a key (hash in hex).
    pub fn forget(&self, hash_hex: &str) {
        self.0.lock().expect("no panic while held").retain(|hash, _| hash.to_hex() != hash_hex);
    }

    fn entry(&self, hash: ApiKeyHash) -> Arc<Looked> {
        let mut entries = self.0.lock().expect("no panic while held");
        if let Some(fresh) = entries.get(&hash).filter(|e| e.at.elapsed() < KEY_CACHE_AGE_MAX) {
            return fresh.clone();
        }
        if entries.len() >= KEY_CACHE_ENTRIES_MAX {
            entries.retain(|_, e| e.at.elapsed() < KEY_CACHE_AGE_MAX);
            if entries.len() >= KEY_CACHE_ENTRIES_MAX {
                entries.clear();
            }
        }
        let entry = Arc::new(Looked { at: Instant::now(), actor: OnceCell::new() });
        entries.insert(hash, entry.clone());
        entry
    }
}

/// A key made now: the only time its secret is seen.
#[derive(Debug)]
pub struct MadeKey {
    pub key: NewKey,
    pub secret: ApiKey,
}

/// A wish for a key.
#[derive(Debug, Clone)]
pub struct CreateKey {
    pub name: KeyName,
    /// Never ends when absent.
    pub days: Option<i64>,
    /// The caller's current team when absent.
    pub team: Option<TeamId>,
}

/// Who a key speaks for.
pub async fn authenticate(ctx: &Context, key: &str) -> Result<Arc<Actor>, ServiceError> {
    let refused = || Failure::new(FailureKind::Unauthorized, "the API key is not valid; send a valid one in X-API-Key");
    let key: ApiKey = key.parse().map_err(|_| refused())?;
    let actor = look_up(ctx, key.hash()).await?.ok_or_else(refused)?;
    if let Some(used) = &actor.key {
        ctx.touches.key(used.id);
    }
    Ok(actor)
}

/// The same by hash; no use is noted.
pub async fn look_up(ctx: &Context, hash: ApiKeyHash) -> Result<Option<Arc<Actor>>, ServiceError> {
    let entry = ctx.keys.entry(hash);
    let look_up = || async {
        let found = ctx.store.key_actor(hash).await?;
        Ok::<_, ServiceError>(found.map(|found| Arc::new(Actor::of_key(hash, found))))
    };
    Ok(entry.actor.get_or_try_init(look_up).await?.clone())
}

/// Makes every control plane forget keys (hashes in hex) that are dead.
pub async fn forget(ctx: &Context, hashes: &[String]) {
    for hash in hashes {
        ctx.keys.forget(hash);
        if let Err(error) = ctx.haste.key_revoked(hash).await {
            tracing::warn!(error = %chain(&error), "a revoked key may work for one more second elsewhere");
            return;
        }
    }
}

/// Makes a key for a team of the caller's.
pub async fn create_for(ctx: &Context, person: &Person, wish: CreateKey) -> Result<MadeKey, ServiceError> {
    rates::take_account(ctx, Limited::CreateKey, &person.user.to_string()).await?;
    let team = teams::chosen(person, wish.team)?;
    let expires_at = match wish.days {
        None => None,
        Some(days) if (1..=KEY_DAYS_MAX).contains(&days) => Some(Utc::now() + TimeDelta::days(days)),
        Some(_) => {
            return Err(Failure::invalid(format!("expires_in_days: 1 to {KEY_DAYS_MAX}, or leave it out")).into());
        }
    };
    let secret = ApiKey::from_random(chance::bytes()?);
    let key = NewKey {
        id: KeyId::from_uuid(chance::id()),
        team,
        name: wish.name.to_string(),
        hash: secret.hash(),
        prefix: secret.visible_prefix(),
        created_by: Some(person.user),
        personal: false,
        expires_at,
    };
    let audit = made(&key, person.author());
    match ctx.store.key_create_by(person.user, &key, &[audit]).await? {
        TeamAct::Done(()) => Ok(MadeKey { key, secret }),
        TeamAct::Full => {
            let text = format!("a team has at most {KEYS_PER_TEAM_MAX} keys; revoke some first");
            Err(Failure::new(FailureKind::Conflict, text).into())
        }
        other => Err(teams::refusal(&other, team)),
    }
}

/// A team's keys, newest first.
pub async fn list(ctx: &Context, person: &Person, team: Option<TeamId>) -> Result<Vec<KeyRow>, ServiceError> {
    let team = teams::chosen(person, team)?;
    teams::get(ctx, person, team).await?;
    Ok(ctx.store.key_list_by_team(team).await?)
}

/// Takes a key back. One that is not there, or dead already, is no error: it does not work.
pub async fn revoke(ctx: &Context, person: &Person, team: Option<TeamId>, id: KeyId) -> Result<(), ServiceError> {
    let team = teams::chosen(person, team)?;
    let audit = NewAudit::new(team, person.author(), "api_key", "revoke").on(id);
    match ctx.store.key_revoke_by(team, person.user, id, &[audit]).await? {
        TeamAct::Done(Some(hash)) => {
            forget(ctx, &[hash]).await;
            Ok(())
        }
        TeamAct::Done(None) | TeamAct::NoTarget => Ok(()),
        TeamAct::Refused => {
            let text = "members take back their own keys; for others' ask an admin of the team";
            Err(Failure::new(FailureKind::Forbidden, text).into())
        }
        other => Err(teams::refusal(&other, team)),
    }
}

/// For whoever runs the server: makes a key for a team (made when missing). The key in the clear is returned this once.
pub async fn create(store: &Store, team: &str, name: &str) -> Result<(KeyId, TeamId, ApiKey), ServiceError> {
    let team = checked(team, "a team's name", 128)?;
    let name = checked(name, "a key's name", 128)?;
    let secret = ApiKey::from_random(chance::bytes()?);
    let team = store.team_ensure(&team, TeamId::from_uuid(chance::id()), &chance::slug()?).await?;
    let id = KeyId::from_uuid(chance::id());
    let key = NewKey {
        id,
        team,
        name,
        hash: secret.hash(),
        prefix: secret.visible_prefix(),
        created_by: None,
        personal: false,
        expires_at: None,
    };
    store.key_create(&key, &[made(&key, Author::system())]).await?;
    Ok((id, team, secret))
}

/// The audit row of a key that is made.
pub fn made(key: &NewKey, author: Author) -> NewAudit {
    let row = NewAudit::new(key.team, author, "api_key", "create").on(key.id).with("name", &key.name);
    match key.expires_at {
        Some(at) => row.with("expires_at", at.to_rfc3339()),
        None => row,
    }
}

fn checked(text: &str, what: &str, chars_max: usize) -> Result<String, Failure> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > chars_max || text.chars().any(char::is_control) {
        return Err(Failure::invalid(format!("{what} has 1 to {chars_max} characters and no control characters")));
    }
    Ok(text.to_owned())
}
