//! Says to other control planes that something happened. What it was they read in the database.

use super::{Redis, RedisError};

impl Redis {
    /// Notifies all control planes that there is something new; `from` names this one.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn live_notify(&self, from: &str) -> Result<(), RedisError> {
        self.publish(self.live_channel(), from, "say that something happened").await
    }

    /// Calls `on_news` with the name of every control plane that says so, until the connection breaks.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn live_subscribe(&self, on_news: impl FnMut(&str)) -> Result<(), RedisError> {
        self.subscribe(self.live_channel(), on_news).await
    }

    fn live_channel(&self) -> String {
        format!("{}sse", self.prefix)
    }
}
