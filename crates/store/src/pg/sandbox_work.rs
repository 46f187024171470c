//! Work on sandboxes that are on their way to another state: who drives one, until when, and when to try again.
//!
//! Owner of: the lease columns of sandboxes, through leases.rs.

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::ids::{HostId, SandboxId};
use wrenn_domain::sandbox::SandboxState;

use super::PlacedSandbox;
use super::leases::{Lease, LeasedTable, leased_table};
use super::sandboxes::placed;
use crate::{Store, StoreError};

const SANDBOXES: LeasedTable = leased_table!(
    "sandboxes",
    kind "t.state = $1",
    due "(t.state <> 'starting' OR t.parent_id IS NULL)",
    counted "0",
    select "SELECT taken.*, h.address FROM taken LEFT JOIN hosts h ON h.id = taken.host_id"
);

/// Kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Rows in state starting, but for the children of forks: their fork makes them.
    Start,
    /// Rows in state stopping.
    Stop,
    /// Rows in state pausing.
    Pause,
    /// Rows in state resuming.
    Resume,
}

impl Work {
    fn state(self) -> SandboxState {
        match self {
            Self::Start => SandboxState::Starting,
            Self::Stop => SandboxState::Stopping,
            Self::Pause => SandboxState::Pausing,
            Self::Resume => SandboxState::Resuming,
        }
    }
}

impl Store {
    /// Claims up to `limit` sandboxes that are due and nobody holds.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn work_claim(&self, work: Work, lease: Lease, limit: u32) -> Result<Vec<PlacedSandbox>, StoreError> {
        self.lease_claim(&SANDBOXES, work.state().as_str(), lease, limit, placed).await
    }

    /// Claims one sandbox that somebody just made due; none when it is held, not due, or no longer in that state.
    ///
    /// # Errors
    /// When the database is away or the row does not parse.
    pub async fn work_claim_one(
        &self,
        work: Work,
        lease: Lease,
        id: SandboxId,
    ) -> Result<Option<PlacedSandbox>, StoreError> {
        self.lease_claim_one(&SANDBOXES, work.state().as_str(), lease, id.uuid(), placed).await
    }

    /// Gives a sandbox back, to be tried again after `pause`. `failed` counts the attempt. Does nothing when it is no longer
    /// the caller's or its state moved on.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn work_postpone(
        &self,
        work: Work,
        owner: Uuid,
        id: SandboxId,
        pause: Duration,
        failed: bool,
    ) -> Result<(), StoreError> {
        self.lease_postpone(&SANDBOXES, work.state().as_str(), owner, id.uuid(), pause, i32::from(failed)).await
    }

    /// Time until the next sandbox of this kind of work is due or its lease ends; none when there is none.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn work_next_due(&self, work: Work) -> Result<Option<Duration>, StoreError> {
        self.lease_next_due(&SANDBOXES, work.state().as_str()).await
    }

    /// Makes everything due that waits for this host to be asked again: it may have forgotten what it was asked.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn work_hurry(&self, host: HostId) -> Result<(), StoreError> {
        self.run("hurry a host's work", || async {
            let mut tx = self.pool.begin().await?;
            sqlx::query(
                "UPDATE sandboxes SET next_attempt_at = now() WHERE host_id = $1 AND next_attempt_at > now()
                   AND state IN ('starting', 'stopping', 'pausing', 'resuming')",
            )
            .bind(host.uuid())
            .execute(&mut *tx)
            .await?;
            super::jobs::hurry(&mut tx, host).await?;
            tx.commit().await
        })
        .await
    }
}
