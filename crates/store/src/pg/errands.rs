//! Errands: what is owed to the world outside the database (a mail, a call of a hook), written in the transaction that owes it
//! and done by whoever claims it. A lease keeps two control planes from doing one at once; a try is counted when it begins.
//!
//! Owner of: errands.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::leases::{Lease, Leased};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// What kind of thing is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrandKind {
    Mail,
    /// To tell a distribution of an account's end.
    AccountHook,
}

impl ErrandKind {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::AccountHook => "account_hook",
        }
    }
}

/// An errand to be written.
#[derive(Debug, Clone)]
pub struct NewErrand {
    pub id: Uuid,
    pub kind: ErrandKind,
    /// While one of this key waits, another is not written. None: one more each time.
    pub key: Option<String>,
    /// Understood by who does it. It lies in the database: no secrets.
    pub payload: Value,
}

/// An errand, leased to whoever claimed it.
#[derive(Debug, Clone)]
pub struct Errand {
    pub id: Uuid,
    pub payload: Value,
    /// This try included.
    pub attempts: u32,
}

impl Store {
    /// Writes an errand that belongs to no other change.
    pub async fn errand_put(&self, new: &NewErrand) -> Result<(), StoreError> {
        self.run("write an errand", || async { owe(&mut *self.pool.acquire().await?, std::slice::from_ref(new)).await })
            .await
    }

    /// Writes an errand inside a distribution's own transaction.
    pub async fn errand_put_in(&self, tx: &mut PgConnection, new: &NewErrand) -> Result<(), StoreError> {
        let done = owe(tx, std::slice::from_ref(new)).await;
        done.map_err(|source| StoreError::of("write an errand", source))
    }

    /// Takes up to `limit` errands that are due and nobody holds; each counts as tried.
    pub async fn errand_claim(&self, kind: ErrandKind, lease: Lease, limit: u32) -> Result<Vec<Errand>, StoreError> {
        self.run("claim errands", || async {
            let rows = sqlx::query(
                "WITH due AS (
                   SELECT id FROM errands WHERE kind = $1 AND died_at IS NULL AND next_attempt_at <= now()
                     AND (lease_until IS NULL OR lease_until < now())
                   ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                 UPDATE errands e SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond',
                   attempts = attempts + 1
                 FROM due WHERE e.id = due.id RETURNING e.*",
            )
            .bind(kind.as_str())
            .bind(i64::from(limit))
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(errand).collect()
        })
        .await
    }

    /// Takes one errand that somebody just wrote; none when it is held, not due, or done.
    pub async fn errand_claim_one(
        &self,
        kind: ErrandKind,
        lease: Lease,
        id: Uuid,
    ) -> Result<Option<Errand>, StoreError> {
        self.run("claim one errand", || async {
            let row = sqlx::query(
                "UPDATE errands SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond',
                   attempts = attempts + 1
                 WHERE kind = $1 AND id = $2 AND died_at IS NULL AND next_attempt_at <= now()
                   AND (lease_until IS NULL OR lease_until < now()) RETURNING *",
            )
            .bind(kind.as_str())
            .bind(id)
            .bind(lease.owner)
            .bind(lease.keep.as_millis() as f64)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(errand).transpose()
        })
        .await
    }

    /// Keeps an errand while its doing lasts. False: it is done or somebody else's.
    pub async fn errand_renew(&self, lease: Lease, id: Uuid) -> Result<bool, StoreError> {
        self.lease_renew(Leased::Errands, lease, id).await
    }

    /// Gives an errand back, to be tried again after `pause`. Does nothing when it is no longer the caller's.
    pub async fn errand_postpone(&self, owner: Uuid, id: Uuid, pause: Duration) -> Result<(), StoreError> {
        self.lease_return(Leased::Errands, owner, id, pause).await
    }

    /// Time until the next errand of this kind is due or its lease ends; none when there is none.
    pub async fn errand_next_due(&self, kind: ErrandKind) -> Result<Option<Duration>, StoreError> {
        self.run("find the next due errand", || async {
            let ms: Option<f64> = sqlx::query_scalar(
                "SELECT (extract(epoch FROM min(greatest(next_attempt_at, coalesce(lease_until, next_attempt_at))) - now()) * 1000)::float8
                 FROM errands WHERE kind = $1 AND died_at IS NULL",
            )
            .bind(kind.as_str())
            .fetch_one(&self.pool)
            .await?;
            Ok(ms.map(|ms| Duration::from_millis(ms.max(0.0) as u64)))
        })
        .await
    }

    /// The errand is done, or there is nothing to do any more.
    pub async fn errand_finish(&self, id: Uuid) -> Result<(), StoreError> {
        self.run("finish an errand", || async {
            sqlx::query("DELETE FROM errands WHERE id = $1").bind(id).execute(&self.pool).await.map(|_| ())
        })
        .await
    }

    /// Gives an errand up.
    pub async fn errand_bury(&self, id: Uuid, error: &str) -> Result<(), StoreError> {
        self.run("give an errand up", || async {
            sqlx::query(
                "UPDATE errands SET died_at = now(), error = $2, lease_owner = NULL, lease_until = NULL
                 WHERE id = $1 AND died_at IS NULL",
            )
            .bind(id)
            .bind(error)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Forgets errands that were given up longer ago than they are kept.
    pub async fn errand_sweep(&self, kept: Duration) -> Result<(), StoreError> {
        self.run("forget errands given up", || async {
            sqlx::query("DELETE FROM errands WHERE died_at < now() - $1 * interval '1 second'")
                .bind(kept.as_secs_f64())
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }
}

/// Writes errands inside the caller's transaction.
pub(super) async fn owe(tx: &mut PgConnection, errands: &[NewErrand]) -> Result<(), sqlx::Error> {
    for errand in errands {
        sqlx::query("INSERT INTO errands (id, kind, key, payload) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
            .bind(errand.id)
            .bind(errand.kind.as_str())
            .bind(&errand.key)
            .bind(Json(&errand.payload))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

fn errand(row: &PgRow) -> Result<Errand, sqlx::Error> {
    Ok(Errand {
        id: row.try_get("id")?,
        payload: row.try_get::<Json<Value>, _>("payload")?.0,
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).map_err(|_| corrupt("errands.attempts"))?,
    })
}
