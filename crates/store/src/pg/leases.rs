//! Leases on rows that are pieces of background work: claim, renew, postpone, next due. One rule for every table.
//!
//! A lease keeps two control planes from doing the same work at once; it is never what makes the work right (every step is
//! compare-and-set or repeatable). Owner of: lease_owner, lease_until, attempts and next_attempt_at of the tables named by
//! [`leased_table!`]. Must never: put anything but literals into SQL.

use std::time::Duration;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::{Store, StoreError};

/// Claim on work: by whom, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// Process that claims.
    pub owner: Uuid,
    /// Time until others may claim it too, unless it is renewed.
    pub keep: Duration,
}

/// Statements over one table of leased rows. Parameters: $1 kind, $2 row id or limit, $3 owner, $4 milliseconds, $5 attempts to add.
pub(super) struct LeasedTable {
    pub(super) claim: &'static str,
    pub(super) claim_one: &'static str,
    pub(super) renew: &'static str,
    pub(super) postpone: &'static str,
    pub(super) next_due: &'static str,
}

/// The statements of a table. `kind` says which rows a kind of work means, `due` which of them can be due, `counted` what a
/// claim adds to the attempts, `select` what is read of the claimed rows (`taken`).
macro_rules! leased_table {
    ($table:literal, kind $kind:literal, due $due:literal, counted $counted:literal, select $select:literal) => {
        LeasedTable {
            claim: concat!(
                "WITH due AS (SELECT t.id FROM ", $table, " t WHERE ", $kind, " AND ", $due,
                " AND t.next_attempt_at <= now() AND (t.lease_until IS NULL OR t.lease_until < now())
                   ORDER BY t.next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED),
                 taken AS (UPDATE ", $table, " t SET lease_owner = $3, lease_until = now() + $4 * interval '1 millisecond',
                   attempts = t.attempts + ", $counted, " FROM due WHERE t.id = due.id AND ", $kind, " RETURNING t.*) ",
                $select
            ),
            // Waits for a row that is locked for a moment, rather than skipping it: somebody just made it due.
            claim_one: concat!(
                "WITH taken AS (UPDATE ", $table, " t SET lease_owner = $3,
                   lease_until = now() + $4 * interval '1 millisecond', attempts = t.attempts + ", $counted,
                " WHERE t.id = $2 AND ", $kind, " AND ", $due,
                " AND t.next_attempt_at <= now() AND (t.lease_until IS NULL OR t.lease_until < now()) RETURNING t.*) ",
                $select
            ),
            renew: concat!(
                "UPDATE ", $table, " t SET lease_until = now() + $4 * interval '1 millisecond'
                 WHERE t.id = $2 AND t.lease_owner = $3 AND ", $kind
            ),
            postpone: concat!(
                "UPDATE ", $table, " t SET lease_owner = NULL, lease_until = NULL,
                   next_attempt_at = now() + $4 * interval '1 millisecond', attempts = t.attempts + $5
                 WHERE t.id = $2 AND t.lease_owner = $3 AND ", $kind
            ),
            next_due: concat!(
                "SELECT (extract(epoch FROM min(greatest(t.next_attempt_at, coalesce(t.lease_until, t.next_attempt_at)))
                   - now()) * 1000)::float8 FROM ", $table, " t WHERE ", $kind, " AND ", $due
            ),
        }
    };
}
pub(super) use leased_table;

impl Store {
    /// Claims up to `limit` rows that are due and nobody holds.
    pub(super) async fn lease_claim<T: Send>(
        &self,
        table: &LeasedTable,
        kind: &str,
        lease: Lease,
        limit: u32,
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        self.run("claim work", || async {
            let rows = sqlx::query(table.claim)
                .bind(kind)
                .bind(i64::from(limit))
                .bind(lease.owner)
                .bind(lease.keep.as_millis() as f64)
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(&read).collect()
        })
        .await
    }

    /// Claims one row that somebody just made due; none when it is held, not due, or no longer of that kind.
    pub(super) async fn lease_claim_one<T: Send>(
        &self,
        table: &LeasedTable,
        kind: &str,
        lease: Lease,
        id: Uuid,
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Option<T>, StoreError> {
        self.run("claim one piece of work", || async {
            let row = sqlx::query(table.claim_one)
                .bind(kind)
                .bind(id)
                .bind(lease.owner)
                .bind(lease.keep.as_millis() as f64)
                .fetch_optional(&self.pool)
                .await?;
            row.as_ref().map(&read).transpose()
        })
        .await
    }

    /// Keeps a row while what is done for it lasts. False: it is gone or somebody else's.
    pub(super) async fn lease_renew(
        &self,
        table: &LeasedTable,
        kind: &str,
        lease: Lease,
        id: Uuid,
    ) -> Result<bool, StoreError> {
        self.run("renew a lease", || async {
            let done = sqlx::query(table.renew)
                .bind(kind)
                .bind(id)
                .bind(lease.owner)
                .bind(lease.keep.as_millis() as f64)
                .execute(&self.pool)
                .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Gives a row back, to be tried again after `pause`, with `attempts` more attempts counted. Does nothing when it is no
    /// longer the caller's.
    pub(super) async fn lease_postpone(
        &self,
        table: &LeasedTable,
        kind: &str,
        owner: Uuid,
        id: Uuid,
        pause: Duration,
        attempts: i32,
    ) -> Result<(), StoreError> {
        self.run("postpone work", || async {
            sqlx::query(table.postpone)
                .bind(kind)
                .bind(id)
                .bind(owner)
                .bind(pause.as_millis() as f64)
                .bind(attempts)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Time until the next row of a kind is due or its lease ends; none when there is no such row.
    pub(super) async fn lease_next_due(&self, table: &LeasedTable, kind: &str) -> Result<Option<Duration>, StoreError> {
        self.run("find the next due work", || async {
            let ms: Option<f64> = sqlx::query_scalar(table.next_due).bind(kind).fetch_one(&self.pool).await?;
            Ok(ms.map(|ms| Duration::from_millis(ms.max(0.0) as u64)))
        })
        .await
    }
}
