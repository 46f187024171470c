//! API keys: who a key speaks for, looked up at most once a second per key, and the acts of the command line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::OnceCell;
use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{KeyId, TeamId};
use wrenn_domain::key::{ApiKey, ApiKeyHash};
use wrenn_domain::limits::{KEY_CACHE_AGE_MAX, KEY_CACHE_ENTRIES_MAX};
use wrenn_store::Store;
use wrenn_store::pg::{KeyActor, NewKey};

use super::ServiceError;
use crate::context::Context;

/// Looked-up keys. Many callers with one key cause one query.
#[derive(Default)]
pub struct KeyCache(Mutex<HashMap<ApiKeyHash, Arc<Looked>>>);

struct Looked {
    at: Instant,
    actor: OnceCell<Option<Arc<KeyActor>>>,
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

/// Who a key speaks for.
pub async fn authenticate(ctx: &Context, key: &str) -> Result<Arc<KeyActor>, ServiceError> {
    let refused = || Failure::new(FailureKind::Unauthorized, "the API key is not valid; send a valid one in X-API-Key");
    let key: ApiKey = key.parse().map_err(|_| refused())?;
    let hash = key.hash();
    let entry = ctx.keys.entry(hash);
    let look_up = || async { ctx.store.key_actor(hash).await.map(|actor| actor.map(Arc::new)) };
    let actor = entry.actor.get_or_try_init(look_up).await?.clone().ok_or_else(refused)?;
    ctx.touches.key(actor.key);
    Ok(actor)
}

/// Makes a key for a team (made when missing). The key in the clear is returned this once.
pub async fn create(store: &Store, team: &str, name: &str) -> Result<(KeyId, TeamId, ApiKey), ServiceError> {
    let team = checked(team, "a team's name", 128)?;
    let name = checked(name, "a key's name", 128)?;
    let mut slug = [0u8; 6];
    let mut secret = [0u8; 16];
    getrandom::fill(&mut slug)
        .and_then(|()| getrandom::fill(&mut secret))
        .map_err(|_| Failure::new(FailureKind::Internal, "the system gives no random numbers"))?;
    let slug = format!("{}-{}", hex::encode(&slug[..3]), hex::encode(&slug[3..]));
    let team = store.team_ensure(&team, TeamId::from_uuid(Uuid::new_v4()), &slug).await?;
    let key = ApiKey::from_random(secret);
    let id = KeyId::from_uuid(Uuid::new_v4());
    store.key_create(&NewKey { id, team, name, hash: key.hash(), prefix: key.visible_prefix() }).await?;
    Ok((id, team, key))
}

fn checked(text: &str, what: &str, chars_max: usize) -> Result<String, Failure> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > chars_max || text.chars().any(char::is_control) {
        return Err(Failure::invalid(format!("{what} has 1 to {chars_max} characters and no control characters")));
    }
    Ok(text.to_owned())
}
