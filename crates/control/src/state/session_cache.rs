//! Sessions that were looked up, and whether Redis is worth asking for one now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use wrenn_domain::limits::{SESSION_CACHE_AGE_MAX, SESSION_CACHE_ENTRIES_MAX};
use wrenn_domain::secret::SecretHash;
use wrenn_store::pg::SessionFacts;

use super::cache::TimedCache;
use crate::actor::Actor;

/// How long Redis is left alone after it failed.
const REDIS_REST: Duration = Duration::from_secs(2);

/// A session that is good.
#[derive(Debug)]
pub struct KnownSession {
    pub facts: SessionFacts,
    /// None while the user is in no team.
    pub actor: Option<Arc<Actor>>,
}

/// A look-up that one caller makes and all who come meanwhile wait for; none inside: there is no such session.
pub(crate) type SessionEntry = Arc<OnceCell<Option<Arc<KnownSession>>>>;

/// Sessions this process remembers, by the hash of their secret.
pub struct SessionCache {
    entries: TimedCache<SecretHash, SessionEntry>,
    began: Instant,
    /// Milliseconds since `began` until which Redis is left alone.
    rest_until: AtomicU64,
}

impl Default for SessionCache {
    fn default() -> Self {
        Self {
            entries: TimedCache::new(SESSION_CACHE_AGE_MAX, SESSION_CACHE_ENTRIES_MAX),
            began: Instant::now(),
            rest_until: AtomicU64::new(0),
        }
    }
}

impl SessionCache {
    /// Forgets every session of a user.
    pub fn forget(&self, user: &str) {
        self.entries.retain(|_, entry| match entry.get() {
            Some(Some(known)) => known.facts.user.to_string() != user,
            Some(None) => true,
            // It is being looked up, and what is found may be older than this.
            None => false,
        });
    }

    pub(crate) fn entry(&self, hash: &SecretHash) -> SessionEntry {
        self.entries.get_or_put(hash.clone(), SessionEntry::default)
    }

    /// Whether Redis failed a moment ago and is not asked.
    pub(crate) fn redis_rests(&self) -> bool {
        self.now_ms() < self.rest_until.load(Ordering::Relaxed)
    }

    /// Leaves Redis alone for a while.
    pub(crate) fn let_redis_rest(&self) {
        self.rest_until.store(self.now_ms() + REDIS_REST.as_millis() as u64, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}
