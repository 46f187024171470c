//! Leases on background work: who drives a sandbox towards its wish, until when, and when to try again.
//!
//! Owner of: lease_owner, lease_until, attempts, next_attempt_at of sandboxes; what errands and channels share of it. A lease keeps two control planes from doing the
//! same work at once; it is never what makes the work right (every step is compare-and-set).

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::ids::{HostId, SandboxId};
use wrenn_domain::sandbox::SandboxState;

use super::PlacedSandbox;
use super::sandboxes::placed;
use crate::{Store, StoreError};

/// Who takes work, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    pub owner: Uuid,
    pub keep: Duration,
}

/// Tables whose rows are pieces of work, named by their id alone.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leased {
    Errands,
    Channels,
}

macro_rules! of_table {
    ($table:expr, $before:literal, $after:literal) => {
        match $table {
            Leased::Errands => concat!($before, "errands", $after),
            Leased::Channels => concat!($before, "channels", $after),
        }
    };
}

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
    /// Keeps a row while what is done for it lasts. False: it is gone or somebody else's.
    pub(super) async fn lease_renew(&self, table: Leased, lease: Lease, id: Uuid) -> Result<bool, StoreError> {
        self.run("renew a lease", || async {
            let done = sqlx::query(of_table!(
                table,
                "UPDATE ",
                " SET lease_until = now() + $3 * interval '1 millisecond' WHERE id = $1 AND lease_owner = $2"
            ))
            .bind(id)
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Gives a row back, to be tried again after `pause`. Does nothing when it is no longer the caller's.
    pub(super) async fn lease_return(
        &self,
        table: Leased,
        owner: Uuid,
        id: Uuid,
        pause: Duration,
    ) -> Result<(), StoreError> {
        self.run("give a lease back", || async {
            sqlx::query(of_table!(
                table,
                "UPDATE ",
                " SET lease_owner = NULL, lease_until = NULL, next_attempt_at = now() + $3 * interval '1 millisecond'
                 WHERE id = $1 AND lease_owner = $2"
            ))
            .bind(id)
            .bind(owner)
            .bind(pause.as_millis() as f64)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Takes up to `limit` rows that are due and nobody holds.
    pub async fn work_claim(&self, work: Work, lease: Lease, limit: u32) -> Result<Vec<PlacedSandbox>, StoreError> {
        self.run("claim work", || async {
            let rows = sqlx::query(
                "WITH due AS (
                   SELECT id FROM sandboxes
                   WHERE state = $1 AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until < now())
                     AND (state <> 'starting' OR parent_id IS NULL)
                   ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED),
                 taken AS (
                   UPDATE sandboxes s SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond'
                   FROM due WHERE s.id = due.id RETURNING s.*)
                 SELECT taken.*, h.address FROM taken LEFT JOIN hosts h ON h.id = taken.host_id",
            )
            .bind(work.state().as_str())
            .bind(i64::from(limit))
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(placed).collect()
        })
        .await
    }

    /// Takes one row that somebody just made due; none when it is held, not due, or no longer in that state.
    pub async fn work_claim_one(
        &self,
        work: Work,
        lease: Lease,
        id: SandboxId,
    ) -> Result<Option<PlacedSandbox>, StoreError> {
        self.run("claim one work", || async {
            let row = sqlx::query(
                "WITH taken AS (
                   UPDATE sandboxes SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond'
                   WHERE id = $1 AND state = $2 AND next_attempt_at <= now()
                     AND (lease_until IS NULL OR lease_until < now())
                     AND (state <> 'starting' OR parent_id IS NULL) RETURNING *)
                 SELECT taken.*, h.address FROM taken LEFT JOIN hosts h ON h.id = taken.host_id",
            )
            .bind(id.uuid())
            .bind(work.state().as_str())
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(placed).transpose()
        })
        .await
    }

    /// Gives a row back, to be tried again after `pause`. `failed` counts the attempt. Does nothing when it is no
    /// longer the caller's or its state moved on.
    pub async fn work_postpone(
        &self,
        work: Work,
        owner: Uuid,
        id: SandboxId,
        pause: Duration,
        failed: bool,
    ) -> Result<(), StoreError> {
        self.run("postpone work", || async {
            sqlx::query(
                "UPDATE sandboxes SET lease_owner = NULL, lease_until = NULL,
                   next_attempt_at = now() + $4 * interval '1 millisecond', attempts = attempts + $5
                 WHERE id = $1 AND state = $2 AND lease_owner = $3",
            )
            .bind(id.uuid())
            .bind(work.state().as_str())
            .bind(owner)
            .bind(pause.as_millis() as f64)
            .bind(i32::from(failed))
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Makes everything due that waits for this host to be asked again: it may have forgotten what it was asked.
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

    /// Time until the next row of this kind is due or its lease ends; none when there is no such row.
    pub async fn work_next_due(&self, work: Work) -> Result<Option<Duration>, StoreError> {
        self.run("find the next due work", || async {
            let ms: Option<f64> = sqlx::query_scalar(
                "SELECT (extract(epoch FROM min(greatest(next_attempt_at, coalesce(lease_until, next_attempt_at))) - now()) * 1000)::float8
                 FROM sandboxes WHERE state = $1 AND (state <> 'starting' OR parent_id IS NULL)",
            )
            .bind(work.state().as_str())
            .fetch_one(&self.pool)
            .await?;
            Ok(ms.map(|ms| Duration::from_millis(ms.max(0.0) as u64)))
        })
        .await
    }
}
