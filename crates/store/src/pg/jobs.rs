//! Jobs at hosts that belong to no sandbox's state: capture a snapshot, discard one, fork.
//!
//! Owner of: every column of host_jobs. Jobs are written and removed inside the transactions of snapshots.rs and forks.rs; here
//! is how they are shared out. As with sandboxes, a lease only keeps two control planes from doing the same at once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::{HostId, SandboxId};

use super::Lease;
use crate::error::corrupt;
use crate::{Store, StoreError};

/// What is to be done at a host.
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

/// A job, leased to whoever claimed it.
#[derive(Debug, Clone)]
pub struct Job {
    /// The snapshot's or fork's.
    pub id: Uuid,
    /// Base URL of the agent that is to do it.
    pub host_address: String,
    /// The source, of capture and fork.
    pub sandbox: Option<SandboxId>,
    /// Doing it once is enough from here on.
    pub is_final: bool,
    pub created_at: DateTime<Utc>,
    pub attempts: u32,
}

/// A job to be written.
pub(super) struct NewJob {
    pub(super) kind: JobKind,
    pub(super) id: Uuid,
    pub(super) host: HostId,
    pub(super) sandbox: Option<SandboxId>,
    /// Repeat it until this long from now.
    pub(super) repeat: Duration,
}

impl Store {
    /// Takes up to `limit` jobs that are due and nobody holds.
    pub async fn job_claim(&self, kind: JobKind, lease: Lease, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.run("claim jobs", || async {
            let rows = sqlx::query(
                "WITH due AS (
                   SELECT kind, id FROM host_jobs
                   WHERE kind = $1 AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until < now())
                   ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED),
                 taken AS (
                   UPDATE host_jobs j SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond'
                   FROM due WHERE j.kind = due.kind AND j.id = due.id RETURNING j.*)
                 SELECT taken.*, coalesce(repeat_until <= now(), true) AS is_final, h.address
                 FROM taken JOIN hosts h ON h.id = taken.host_id",
            )
            .bind(kind.as_str())
            .bind(i64::from(limit))
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(job).collect()
        })
        .await
    }

    /// Takes one job that somebody just wrote; none when it is held, not due, or done.
    pub async fn job_claim_one(&self, kind: JobKind, lease: Lease, id: Uuid) -> Result<Option<Job>, StoreError> {
        self.run("claim one job", || async {
            let row = sqlx::query(
                "WITH taken AS (
                   UPDATE host_jobs SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond'
                   WHERE kind = $1 AND id = $2 AND next_attempt_at <= now()
                     AND (lease_until IS NULL OR lease_until < now()) RETURNING *)
                 SELECT taken.*, coalesce(repeat_until <= now(), true) AS is_final, h.address
                 FROM taken JOIN hosts h ON h.id = taken.host_id",
            )
            .bind(kind.as_str())
            .bind(id)
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(job).transpose()
        })
        .await
    }

    /// Keeps a job while a long call lasts. False: it is done or somebody else's.
    pub async fn job_renew(&self, kind: JobKind, lease: Lease, id: Uuid) -> Result<bool, StoreError> {
        self.run("renew the lease of a job", || async {
            let done = sqlx::query(
                "UPDATE host_jobs SET lease_until = now() + $4 * interval '1 millisecond'
                 WHERE kind = $1 AND id = $2 AND lease_owner = $3",
            )
            .bind(kind.as_str())
            .bind(id)
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Gives a job back, to be tried again after `pause`. `failed` counts the attempt. Does nothing when it is no longer
    /// the caller's.
    pub async fn job_postpone(
        &self,
        kind: JobKind,
        owner: Uuid,
        id: Uuid,
        pause: Duration,
        failed: bool,
    ) -> Result<(), StoreError> {
        self.run("postpone a job", || async {
            sqlx::query(
                "UPDATE host_jobs SET lease_owner = NULL, lease_until = NULL,
                   next_attempt_at = now() + $4 * interval '1 millisecond', attempts = attempts + $5
                 WHERE kind = $1 AND id = $2 AND lease_owner = $3",
            )
            .bind(kind.as_str())
            .bind(id)
            .bind(owner)
            .bind(pause.as_millis() as f64)
            .bind(i32::from(failed))
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Time until the next job of this kind is due or its lease ends; none when there is no such job.
    pub async fn job_next_due(&self, kind: JobKind) -> Result<Option<Duration>, StoreError> {
        self.run("find the next due job", || async {
            let ms: Option<f64> = sqlx::query_scalar(
                "SELECT (extract(epoch FROM min(greatest(next_attempt_at, coalesce(lease_until, next_attempt_at))) - now()) * 1000)::float8
                 FROM host_jobs WHERE kind = $1",
            )
            .bind(kind.as_str())
            .fetch_one(&self.pool)
            .await?;
            Ok(ms.map(|ms| Duration::from_millis(ms.max(0.0) as u64)))
        })
        .await
    }

    /// The job is done.
    pub async fn job_finish(&self, kind: JobKind, id: Uuid) -> Result<(), StoreError> {
        self.run("finish a job", || async { remove(&mut *self.pool.acquire().await?, kind, id).await }).await
    }
}

pub(super) async fn insert(conn: &mut PgConnection, new: &NewJob) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO host_jobs (kind, id, host_id, sandbox_id, repeat_until)
         VALUES ($1, $2, $3, $4, now() + $5 * interval '1 millisecond') ON CONFLICT (kind, id) DO NOTHING",
    )
    .bind(new.kind.as_str())
    .bind(new.id)
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

pub(super) async fn remove(conn: &mut PgConnection, kind: JobKind, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM host_jobs WHERE kind = $1 AND id = $2")
        .bind(kind.as_str())
        .bind(id)
        .execute(conn)
        .await
        .map(|_| ())
}

fn job(row: &PgRow) -> Result<Job, sqlx::Error> {
    Ok(Job {
        id: row.try_get("id")?,
        host_address: row.try_get("address")?,
        sandbox: row.try_get::<Option<Uuid>, _>("sandbox_id")?.map(SandboxId::from_uuid),
        is_final: row.try_get("is_final")?,
        created_at: row.try_get("created_at")?,
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).map_err(|_| corrupt("host_jobs.attempts"))?,
    })
}
