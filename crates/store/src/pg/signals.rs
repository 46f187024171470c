//! LISTEN and NOTIFY: tells other control planes that there is work. Only ever makes things sooner.

use sqlx::postgres::PgListener;
use wrenn_domain::ids::SandboxId;

use crate::{Store, StoreError};

/// Where ids of sandboxes that became due are announced.
pub(super) const DUE_CHANNEL: &str = "wrenn_due";

/// FeedEntry about a sandbox: somebody wants its end and whoever is first may bring it about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// This sandbox.
    Sandbox(SandboxId),
    /// Signals may have been lost: look at everything.
    Lost,
}

/// An open ear.
pub struct Signals(PgListener);

impl Signals {
    /// The next signal. A broken connection is made again and answered with [`Signal::Lost`].
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn next(&mut self) -> Result<Signal, StoreError> {
        match self.0.try_recv().await.map_err(|error| StoreError::of("listen for signals", error))? {
            Some(news) => Ok(news.payload().parse().map_or(Signal::Lost, Signal::Sandbox)),
            None => Ok(Signal::Lost),
        }
    }
}

impl Store {
    /// Opens an ear on its own connection.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn listen(&self) -> Result<Signals, StoreError> {
        let act = "listen for signals";
        let mut ear = PgListener::connect_with(&self.pool).await.map_err(|e| StoreError::of(act, e))?;
        ear.listen(DUE_CHANNEL).await.map_err(|e| StoreError::of(act, e))?;
        Ok(Signals(ear))
    }
}
