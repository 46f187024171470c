//! API keys that were looked up: many requests with one key cause one query a second.

use std::sync::Arc;

use tokio::sync::OnceCell;
use wrenn_domain::key::ApiKeyHash;
use wrenn_domain::limits::{KEY_CACHE_AGE_MAX, KEY_CACHE_ENTRIES_MAX};

use super::cache::TimedCache;
use crate::actor::Actor;

/// A look-up that one caller makes and all who come meanwhile wait for; none inside: there is no such key.
pub(crate) type KeyEntry = Arc<OnceCell<Option<Arc<Actor>>>>;

/// Actors of keys, by the key's hash.
pub struct KeyCache(TimedCache<ApiKeyHash, KeyEntry>);

impl Default for KeyCache {
    fn default() -> Self {
        Self(TimedCache::new(KEY_CACHE_AGE_MAX, KEY_CACHE_ENTRIES_MAX))
    }
}

impl KeyCache {
    /// Forgets a key (its hash in hex).
    pub fn forget(&self, hash_hex: &str) {
        self.0.retain(|hash, _| hash.to_hex() != hash_hex);
    }

    pub(crate) fn entry(&self, hash: ApiKeyHash) -> KeyEntry {
        self.0.get_or_put(hash, KeyEntry::default)
    }
}
