//! Jobs at hosts that belong to no sandbox's state: capture a snapshot, discard one, fork.
//!
//! Owner of: every column of host_jobs. Jobs are written and removed inside the transactions of snapshots.rs and forks.rs; the
//! lease columns are changed through leases.rs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::{HostId, JobId, SandboxId};

use super::leases::{Lease, LeasedTable, leased_table};
use crate::error::corrupt;
use crate::{Store, StoreError};

const HOST_JOBS: LeasedTable = leased_table!(
    "host_jobs",
    kind "t.kind = $1",
    due "true",
    counted "0",
    select "SELECT taken.*, coalesce(repeat_until <= now(), true) AS is_final, h.address
            FROM taken JOIN hosts h ON h.id = taken.host_id"
);

/// Kind of a job at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Write the snapshot of a pending template.
    Capture,
    /// Remove a snapshot's files.
    Discard,
    /// Make the children of a fork.
    Fork,
}

impl JobKind {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Discard => "discard",
            Self::Fork => "fork",
        }
    }
}

/// A job at a host, leased to the process that claimed it.
#[derive(Debug, Clone)]
pub struct Job {
    /// The id of the snapshot or fork it is for.
    pub id: JobId,
    /// Base URL of the agent that is to do it.
    pub host_address: String,
    /// The sandbox that is captured or forked; none of a discard.
    pub sandbox: Option<SandboxId>,
    /// From here on doing it once is enough.
    pub is_final: bool,
    pub created_at: DateTime<Utc>,
    pub attempts: u32,
}

/// A job to be written.
pub(super) struct NewJob {
    pub(super) kind: JobKind,
    pub(super) id: JobId,
    pub(super) host: HostId,
    pub(super) sandbox: Option<SandboxId>,
    /// Repeat it until this long from now.
    pub(super) repeat: Duration,
}

impl Store {
    /// Claims up to `limit` jobs that are due and nobody holds.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn job_claim(&self, kind: JobKind, lease: Lease, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.lease_claim(&HOST_JOBS, kind.as_str(), lease, limit, job).await
    }

    /// Claims one job that somebody just wrote; none when it is held, not due, or done.
    ///
    /// # Errors
    /// When the database is away or the row does not parse.
    pub async fn job_claim_one(&self, kind: JobKind, lease: Lease, id: JobId) -> Result<Option<Job>, StoreError> {
        self.lease_claim_one(&HOST_JOBS, kind.as_str(), lease, id.uuid(), job).await
    }

    /// Keeps a job while a long call lasts. False: it is done or somebody else's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn job_renew(&self, kind: JobKind, lease: Lease, id: JobId) -> Result<bool, StoreError> {
        self.lease_renew(&HOST_JOBS, kind.as_str(), lease, id.uuid()).await
    }

    /// Gives a job back, to be tried again after `pause`. `failed` counts the attempt. Does nothing when it is no longer
    /// the caller's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn job_postpone(
        &self,
        kind: JobKind,
        owner: Uuid,
        id: JobId,
        pause: Duration,
        failed: bool,
    ) -> Result<(), StoreError> {
        self.lease_postpone(&HOST_JOBS, kind.as_str(), owner, id.uuid(), pause, i32::from(failed)).await
    }

    /// Time until the next job of this kind is due or its lease ends; none when there is no such job.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn job_next_due(&self, kind: JobKind) -> Result<Option<Duration>, StoreError> {
        self.lease_next_due(&HOST_JOBS, kind.as_str()).await
    }

    /// The job is done.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn job_finish(&self, kind: JobKind, id: JobId) -> Result<(), StoreError> {
        self.run("finish a job", || async { remove(&mut *self.pool.acquire().await?, kind, id).await }).await
    }
}

pub(super) async fn insert(conn: &mut PgConnection, new: &NewJob) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO host_jobs (kind, id, host_id, sandbox_id, repeat_until)
         VALUES ($1, $2, $3, $4, now() + $5 * interval '1 millisecond') ON CONFLICT (kind, id) DO NOTHING",
    )
    .bind(new.kind.as_str())
    .bind(new.id.uuid())
    .bind(new.host.uuid())
    .bind(new.sandbox.map(SandboxId::uuid))
    .bind(new.repeat.as_millis() as f64)
    .execute(conn)
    .await
    .map(|_| ())
}

pub(super) async fn hurry(conn: &mut PgConnection, host: HostId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE host_jobs SET next_attempt_at = now() WHERE host_id = $1 AND next_attempt_at > now()")
        .bind(host.uuid())
        .execute(conn)
        .await
        .map(|_| ())
}

pub(super) async fn remove(conn: &mut PgConnection, kind: JobKind, id: JobId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM host_jobs WHERE kind = $1 AND id = $2")
        .bind(kind.as_str())
        .bind(id.uuid())
        .execute(conn)
        .await
        .map(|_| ())
}

fn job(row: &PgRow) -> Result<Job, sqlx::Error> {
    Ok(Job {
        id: JobId::from_uuid(row.try_get("id")?),
        host_address: row.try_get("address")?,
        sandbox: row.try_get::<Option<Uuid>, _>("sandbox_id")?.map(SandboxId::from_uuid),
        is_final: row.try_get("is_final")?,
        created_at: row.try_get("created_at")?,
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).map_err(|_| corrupt("host_jobs.attempts"))?,
    })
}
