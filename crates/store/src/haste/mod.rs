//! Redis: haste only. Every call here may fail or be lost and nothing is wrong afterwards.
//!
//! - here: tells other control planes that an API key was revoked, so that they forget it before its cache age is over.
//! - [`sessions`]: one look at the database shared by all control planes.
//! - [`stream`]: carries events from the outbox to those who wait for them.

mod live;
mod sessions;
pub mod stream;

use std::time::Duration;

use futures::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

/// Handle to Redis. Cheap to clone; connects when first used and again after it was away.
#[derive(Clone)]
pub struct Haste {
    client: redis::Client,
    manager: ConnectionManager,
    prefix: String,
}

/// Redis did not do it.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not {act}")]
pub struct HasteError {
    act: &'static str,
    #[source]
    source: redis::RedisError,
}

impl Haste {
    /// Prepares a handle without connecting. `prefix` keeps installations that share a Redis apart. Needs a Tokio runtime.
    pub fn new(url: &str, prefix: &str) -> Result<Self, HasteError> {
        let act = "take REDIS_URL";
        let wrap = |source| HasteError { act, source };
        let client = redis::Client::open(url).map_err(wrap)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(1);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(wrap)?;
        Ok(Self { client, manager, prefix: prefix.to_owned() })
    }

    /// One round trip, at most two seconds.
    pub async fn ping(&self) -> Result<(), HasteError> {
        let mut manager = self.manager.clone();
        let ping = redis::cmd("PING");
        let answer = ping.query_async::<()>(&mut manager);
        match tokio::time::timeout(Duration::from_secs(2), answer).await {
            Ok(done) => done.map_err(|source| HasteError { act: "answer", source }),
            Err(_) => Err(HasteError {
                act: "answer",
                source: redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)),
            }),
        }
    }

    /// Tells every control plane that the key with this hash (hex) is no longer valid.
    pub async fn key_revoked(&self, hash_hex: &str) -> Result<(), HasteError> {
        let mut manager = self.manager.clone();
        redis::cmd("PUBLISH")
            .arg(self.keys_channel())
            .arg(hash_hex)
            .query_async::<()>(&mut manager)
            .await
            .map_err(|source| HasteError { act: "publish a revoked key", source })
    }

    /// Calls `forget` with the hash of every key that is revoked, until the connection breaks.
    pub async fn revoked_keys(&self, mut forget: impl FnMut(&str)) -> Result<(), HasteError> {
        let wrap = |source| HasteError { act: "subscribe", source };
        let mut ear = self.client.get_async_pubsub().await.map_err(wrap)?;
        ear.subscribe(self.keys_channel()).await.map_err(wrap)?;
        let mut news = ear.into_on_message();
        while let Some(message) = news.next().await {
            if let Ok(hash) = message.get_payload::<String>() {
                forget(&hash);
            }
        }
        Ok(())
    }

    fn keys_channel(&self) -> String {
        format!("{}keys", self.prefix)
    }
}
