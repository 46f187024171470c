//! Sessions in Redis, so that several control planes share one look at the database.
//!
//! Every entry carries its user's generation and is good only while that is still the newest one known here. So a process that
//! read a session before its end and writes it afterwards cannot bring it back.

use redis::Script;
use wrenn_domain::limits::SESSION_SHARED_AGE_MAX;
use wrenn_domain::secret::SecretHash;

use super::{Redis, RedisError};

/// Seconds a generation is remembered; longer than any entry that could disagree with it.
const GENERATION_KEPT_SECS: u64 = 3600;

/// An entry is `generation user body`.
const GET: &str = "local entry = redis.call('GET', KEYS[1])
if not entry then return false end
local generation, user, body = string.match(entry, '^(%S+) (%S+) (.*)$')
if not generation or redis.call('GET', ARGV[1] .. user) ~= generation then return false end
return body";

const PUT: &str = "local newest = redis.call('GET', KEYS[2])
if newest and tonumber(newest) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[5])
return 1";

const NEWER: &str = "local newest = redis.call('GET', KEYS[1])
if not newest or tonumber(newest) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1";

impl Redis {
    /// Session that is known to Redis, if it is still true.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn session_get(&self, hash: &SecretHash) -> Result<Option<String>, RedisError> {
        let mut manager = self.manager.clone();
        Script::new(GET)
            .key(self.session_key(hash))
            .arg(self.generation_key(""))
            .invoke_async::<Option<String>>(&mut manager)
            .await
            .map_err(|source| RedisError { act: "read a session", source })
    }

    /// Shares what the database just said of a session, unless something newer is known of its user.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn session_put(
        &self,
        hash: &SecretHash,
        user: &str,
        generation: i64,
        body: &str,
    ) -> Result<(), RedisError> {
        let mut manager = self.manager.clone();
        Script::new(PUT)
            .key(self.session_key(hash))
            .key(self.generation_key(user))
            .arg(generation)
            .arg(user)
            .arg(body)
            .arg(GENERATION_KEPT_SECS)
            .arg(SESSION_SHARED_AGE_MAX.as_millis() as u64)
            .invoke_async::<()>(&mut manager)
            .await
            .map_err(|source| RedisError { act: "share a session", source })
    }

    /// Makes every entry of a user older than this generation worthless, and tells every control plane.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn sessions_changed(&self, user: &str, generation: i64) -> Result<(), RedisError> {
        let mut manager = self.manager.clone();
        Script::new(NEWER)
            .key(self.generation_key(user))
            .arg(generation)
            .arg(GENERATION_KEPT_SECS)
            .arg(self.sessions_channel())
            .arg(user)
            .invoke_async::<()>(&mut manager)
            .await
            .map_err(|source| RedisError { act: "tell of an ended session", source })
    }

    /// Calls `forget` with every user whose sessions changed, until the connection breaks.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn changed_sessions(&self, forget: impl FnMut(&str)) -> Result<(), RedisError> {
        self.subscribe(self.sessions_channel(), forget).await
    }

    fn session_key(&self, hash: &SecretHash) -> String {
        format!("{}session:{hash}", self.prefix)
    }

    fn generation_key(&self, user: &str) -> String {
        format!("{}session-generation:{user}", self.prefix)
    }

    fn sessions_channel(&self) -> String {
        format!("{}sessions", self.prefix)
    }
}
