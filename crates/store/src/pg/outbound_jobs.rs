//! Outbound jobs: what is to be done outside the database (a mail, a call of a hook), written in the transaction that needs it
//! and done by the process that claims it. A try is counted when it begins.
//!
//! Owner of: outbound_jobs.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::OutboundJobId;

use super::leases::{Lease, LeasedTable, leased_table};
use crate::error::corrupt;
use crate::{Store, StoreError};

const OUTBOUND_JOBS: LeasedTable = leased_table!(
    "outbound_jobs",
    kind "t.kind = $1",
    due "t.died_at IS NULL",
    counted "1",
    select "SELECT * FROM taken"
);

/// Kind of an outbound job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundJobKind {
    /// A mail is sent.
    Mail,
    /// A distribution's hook is called because an account ended.
    AccountHook,
}

impl OutboundJobKind {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::AccountHook => "account_hook",
        }
    }
}

/// An outbound job to be written.
#[derive(Debug, Clone)]
pub struct NewOutboundJob {
    pub id: OutboundJobId,
    pub kind: OutboundJobKind,
    /// While one of this key waits, another is not written. None: one more each time.
    pub key: Option<String>,
    /// Understood by who does it. It lies in the database: no secrets.
    pub payload: Value,
}

/// An outbound job, leased to whoever claimed it.
#[derive(Debug, Clone)]
pub struct OutboundJob {
    pub id: OutboundJobId,
    pub payload: Value,
    /// This try included.
    pub attempts: u32,
}

impl Store {
    /// Writes an outbound job that belongs to no other change.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbound_job_put(&self, new: &NewOutboundJob) -> Result<(), StoreError> {
        self.run("write an outbound job", || async {
            enqueue(&mut *self.pool.acquire().await?, std::slice::from_ref(new)).await
        })
        .await
    }

    /// Writes an outbound job inside a distribution's own transaction.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbound_job_put_in(&self, tx: &mut PgConnection, new: &NewOutboundJob) -> Result<(), StoreError> {
        let done = enqueue(tx, std::slice::from_ref(new)).await;
        done.map_err(|source| StoreError::of("write an outbound job", source))
    }

    /// Claims up to `limit` outbound jobs that are due and nobody holds; each counts as tried.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbound_job_claim(
        &self,
        kind: OutboundJobKind,
        lease: Lease,
        limit: u32,
    ) -> Result<Vec<OutboundJob>, StoreError> {
        self.lease_claim(&OUTBOUND_JOBS, kind.as_str(), lease, limit, outbound_job).await
    }

    /// Claims one outbound job that somebody just wrote; none when it is held, not due, or done.
    ///
    /// # Errors
    /// When the database is away or the row does not parse.
    pub async fn outbound_job_claim_one(
        &self,
        kind: OutboundJobKind,
        lease: Lease,
        id: OutboundJobId,
    ) -> Result<Option<OutboundJob>, StoreError> {
        self.lease_claim_one(&OUTBOUND_JOBS, kind.as_str(), lease, id.uuid(), outbound_job).await
    }

    /// Keeps an outbound job while its doing lasts. False: it is done or somebody else's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn outbound_job_renew(
        &self,
        kind: OutboundJobKind,
        lease: Lease,
        id: OutboundJobId,
    ) -> Result<bool, StoreError> {
        self.lease_renew(&OUTBOUND_JOBS, kind.as_str(), lease, id.uuid()).await
    }

    /// Gives an outbound job back, to be tried again after `pause`. Does nothing when it is no longer the caller's.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn outbound_job_postpone(
        &self,
        kind: OutboundJobKind,
        owner: Uuid,
        id: OutboundJobId,
        pause: Duration,
    ) -> Result<(), StoreError> {
        // The attempt was counted when it was claimed.
        self.lease_postpone(&OUTBOUND_JOBS, kind.as_str(), owner, id.uuid(), pause, 0).await
    }

    /// Time until the next outbound job of this kind is due or its lease ends; none when there is none.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn outbound_job_next_due(&self, kind: OutboundJobKind) -> Result<Option<Duration>, StoreError> {
        self.lease_next_due(&OUTBOUND_JOBS, kind.as_str()).await
    }

    /// The outbound job is done, or there is nothing to do any more.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbound_job_finish(&self, id: OutboundJobId) -> Result<(), StoreError> {
        self.run("finish an outbound job", || async {
            sqlx::query("DELETE FROM outbound_jobs WHERE id = $1").bind(id.uuid()).execute(&self.pool).await.map(|_| ())
        })
        .await
    }

    /// Gives an outbound job up.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbound_job_give_up(&self, id: OutboundJobId, error: &str) -> Result<(), StoreError> {
        self.run("give an outbound job up", || async {
            sqlx::query(
                "UPDATE outbound_jobs SET died_at = now(), error = $2, lease_owner = NULL, lease_until = NULL
                 WHERE id = $1 AND died_at IS NULL",
            )
            .bind(id.uuid())
            .bind(error)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Forgets outbound jobs that were given up longer ago than they are kept.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn outbound_job_sweep(&self, kept: Duration) -> Result<(), StoreError> {
        self.run("forget outbound jobs given up", || async {
            sqlx::query("DELETE FROM outbound_jobs WHERE died_at < now() - $1 * interval '1 second'")
                .bind(kept.as_secs_f64())
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }
}

/// Writes outbound jobs inside the caller's transaction.
pub(super) async fn enqueue(tx: &mut PgConnection, jobs: &[NewOutboundJob]) -> Result<(), sqlx::Error> {
    for job in jobs {
        sqlx::query(
            "INSERT INTO outbound_jobs (id, kind, key, payload) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(job.id.uuid())
        .bind(job.kind.as_str())
        .bind(&job.key)
        .bind(Json(&job.payload))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

fn outbound_job(row: &PgRow) -> Result<OutboundJob, sqlx::Error> {
    Ok(OutboundJob {
        id: OutboundJobId::from_uuid(row.try_get("id")?),
        payload: row.try_get::<Json<Value>, _>("payload")?.0,
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).map_err(|_| corrupt("outbound_jobs.attempts"))?,
    })
}
