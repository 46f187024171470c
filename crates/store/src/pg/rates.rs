//! How often something may be tried, counted for all control planes together.
//!
//! Owner of: rate_limits. The generic cell rate algorithm: one row holds the time at which the next try would be on
//! schedule; a burst may run ahead of it. One statement decides, so parallel tries cannot pass together.

use std::time::Duration;

use crate::{Store, StoreError};

/// How often: `burst` at once, then one each `every`.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub burst: u32,
    pub every: Duration,
}

impl Store {
    /// Counts one try. Answers how long to wait when it is one too many; such a try is not counted.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn rate_take(&self, key: &str, rate: Rate) -> Result<Result<(), Duration>, StoreError> {
        let every = rate.every.as_secs_f64();
        let ahead = every * f64::from(rate.burst);
        self.run("count a try", || async {
            let taken = sqlx::query(
                "INSERT INTO rate_limits AS r (key, arrival_at) VALUES ($1, now() + $2 * interval '1 second')
                 ON CONFLICT (key) DO UPDATE SET arrival_at = greatest(r.arrival_at, now()) + $2 * interval '1 second'
                 WHERE greatest(r.arrival_at, now()) + $2 * interval '1 second' <= now() + $3 * interval '1 second'",
            )
            .bind(key)
            .bind(every)
            .bind(ahead)
            .execute(&self.pool)
            .await?;
            if taken.rows_affected() == 1 {
                return Ok(Ok(()));
            }
            let wait: Option<f64> = sqlx::query_scalar(
                "SELECT extract(epoch FROM arrival_at - now())::float8 + $2 - $3 FROM rate_limits WHERE key = $1",
            )
            .bind(key)
            .bind(every)
            .bind(ahead)
            .fetch_optional(&self.pool)
            .await?;
            Ok(Err(Duration::from_secs_f64(wait.unwrap_or(every).clamp(0.001, ahead + every))))
        })
        .await
    }

    /// Forgives all tries under a key.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn rate_forgive(&self, key: &str) -> Result<(), StoreError> {
        self.run("forgive tries", || async {
            sqlx::query("DELETE FROM rate_limits WHERE key = $1").bind(key).execute(&self.pool).await.map(|_| ())
        })
        .await
    }

    /// Removes counters that no longer limit anything.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn rate_sweep(&self) -> Result<u64, StoreError> {
        self.run("remove old counters", || async {
            let done = sqlx::query("DELETE FROM rate_limits WHERE arrival_at < now()").execute(&self.pool).await?;
            Ok(done.rows_affected())
        })
        .await
    }
}
