//! Says to other control planes that something happened. What it was they read in the database.

use futures::StreamExt;

use super::{Haste, HasteError};

impl Haste {
    /// Says that there is something to see; `from` names this control plane.
    pub async fn live_say(&self, from: &str) -> Result<(), HasteError> {
        let mut manager = self.manager.clone();
        redis::cmd("PUBLISH")
            .arg(self.live_channel())
            .arg(from)
            .query_async::<()>(&mut manager)
            .await
            .map_err(|source| HasteError { act: "say that something happened", source })
    }

    /// Calls `look` with the name of every control plane that says so, until the connection breaks.
    pub async fn live_hear(&self, mut look: impl FnMut(&str)) -> Result<(), HasteError> {
        let wrap = |source| HasteError { act: "subscribe", source };
        let mut ear = self.client.get_async_pubsub().await.map_err(wrap)?;
        ear.subscribe(self.live_channel()).await.map_err(wrap)?;
        let mut news = ear.into_on_message();
        while let Some(message) = news.next().await {
            if let Ok(from) = message.get_payload::<String>() {
                look(&from);
            }
        }
        Ok(())
    }

    fn live_channel(&self) -> String {
        format!("{}sse", self.prefix)
    }
}
