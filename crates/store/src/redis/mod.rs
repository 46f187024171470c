//! Redis: only makes things quicker. Every call here may fail or be lost and nothing is wrong afterwards.
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
pub struct Redis {
    client: redis::Client,
    manager: ConnectionManager,
    prefix: String,
}

/// Redis did not do it.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not {act}")]
pub struct RedisError {
    act: &'static str,
    #[source]
    source: redis::RedisError,
}

impl Redis {
    /// Prepares a handle without connecting. `prefix` keeps installations that share a Redis apart. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the URL is not one of Redis.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisError> {
        let act = "take REDIS_URL";
        let wrap = |source| RedisError { act, source };
        let client = redis::Client::open(url).map_err(wrap)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(1);
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(wrap)?;
        Ok(Self { client, manager, prefix: prefix.to_owned() })
    }

    /// One round trip, at most two seconds.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn ping(&self) -> Result<(), RedisError> {
        let mut manager = self.manager.clone();
        let ping = redis::cmd("PING");
        let answer = ping.query_async::<()>(&mut manager);
        match tokio::time::timeout(Duration::from_secs(2), answer).await {
            Ok(done) => done.map_err(|source| RedisError { act: "answer", source }),
            Err(_) => Err(RedisError {
                act: "answer",
                source: redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)),
            }),
        }
    }

    /// Tells every control plane that the key with this hash (hex) is no longer valid.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn key_revoked(&self, hash_hex: &str) -> Result<(), RedisError> {
        self.publish(self.keys_channel(), hash_hex, "publish a revoked key").await
    }

    /// Calls `forget` with the hash of every key that is revoked, until the connection breaks.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn revoked_keys(&self, forget: impl FnMut(&str)) -> Result<(), RedisError> {
        self.subscribe(self.keys_channel(), forget).await
    }

    /// Calls `on_message` with every text published on a channel, until the connection breaks.
    async fn subscribe(&self, channel: String, mut on_message: impl FnMut(&str)) -> Result<(), RedisError> {
        let wrap = |source| RedisError { act: "subscribe", source };
        let mut subscription = self.client.get_async_pubsub().await.map_err(wrap)?;
        subscription.subscribe(channel).await.map_err(wrap)?;
        let mut messages = subscription.into_on_message();
        while let Some(message) = messages.next().await {
            if let Ok(text) = message.get_payload::<String>() {
                on_message(&text);
            }
        }
        Ok(())
    }

    /// Publishes a text on a channel; `act` names it in the error.
    async fn publish(&self, channel: String, text: &str, act: &'static str) -> Result<(), RedisError> {
        let mut manager = self.manager.clone();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(text);
        publish.query_async::<()>(&mut manager).await.map_err(|source| RedisError { act, source })
    }

    fn keys_channel(&self) -> String {
        format!("{}keys", self.prefix)
    }
}
