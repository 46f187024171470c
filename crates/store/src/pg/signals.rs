//! LISTEN and NOTIFY: tells other control planes that there is work. Only ever makes things sooner.

use sqlx::postgres::PgListener;
use wrenn_domain::ids::SandboxId;

use crate::{Store, StoreError};

const CHANNEL: &str = "wrenn_sandboxes";

/// News about a sandbox: its row changed in a way somebody may have to act on.
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
    pub async fn next(&mut self) -> Result<Signal, StoreError> {
        match self.0.try_recv().await.map_err(|error| StoreError::of("listen for signals", error))? {
            Some(news) => Ok(news.payload().parse().map_or(Signal::Lost, Signal::Sandbox)),
            None => Ok(Signal::Lost),
        }
    }
}

impl Store {
    /// Opens an ear on its own connection.
    pub async fn listen(&self) -> Result<Signals, StoreError> {
        let act = "listen for signals";
        let mut ear = PgListener::connect_with(&self.pool).await.map_err(|e| StoreError::of(act, e))?;
        ear.listen(CHANNEL).await.map_err(|e| StoreError::of(act, e))?;
        Ok(Signals(ear))
    }

    /// Tells every control plane to look at a sandbox.
    pub async fn announce(&self, id: SandboxId) -> Result<(), StoreError> {
        self.run("announce a change", || async {
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(id.to_string())
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }
}

/// Tells when the transaction commits.
pub(super) async fn announce(
    tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    id: SandboxId,
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(id.to_string()).execute(&mut **tx).await.map(|_| ())
}
