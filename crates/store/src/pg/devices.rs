//! Logins of programs without a browser: a person approves them in one; the program then gets a personal key.
//!
//! Owner of: device_logins.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::secret::SecretHash;

use super::audit::{NewAudit, note};
use super::keys::{NewKey, create_by};
use super::teams::TeamAct;
use crate::{Store, StoreError};

/// How a device's question ended.
#[derive(Debug, Clone)]
pub enum DeviceTaken {
    /// Nobody approved it yet.
    Waiting,
    /// Approved, and taken: its key is stored.
    Done(Box<NewKey>),
    /// Unknown, over, taken already, or its approver may not make keys any more.
    Gone,
}

impl Store {
    /// Notes a device that waits. False when the user code is in use.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn device_create(
        &self,
        hash: &SecretHash,
        user_code: &str,
        client: &str,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        self.run("note a device login", || async {
            let done = sqlx::query(
                "INSERT INTO device_logins (hash, user_code, client, expires_at)
                 VALUES ($1, $2, $3, now() + $4 * interval '1 second') ON CONFLICT DO NOTHING",
            )
            .bind(hash.as_str())
            .bind(user_code)
            .bind(client)
            .bind(keep.as_secs_f64())
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Client that waits under a user code: its own words about itself.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn device_client(&self, user_code: &str) -> Result<Option<String>, StoreError> {
        self.run("look up a device login", || async {
            sqlx::query_scalar(
                "SELECT client FROM device_logins WHERE user_code = $1 AND user_id IS NULL AND expires_at > now()",
            )
            .bind(user_code)
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// Approves a waiting device for a user and team. False when there is none (any more).
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn device_approve(&self, user_code: &str, user: UserId, team: TeamId) -> Result<bool, StoreError> {
        self.run("approve a device login", || async {
            let done = sqlx::query(
                "UPDATE device_logins SET user_id = $2, team_id = $3
                 WHERE user_code = $1 AND user_id IS NULL AND expires_at > now()",
            )
            .bind(user_code)
            .bind(user.uuid())
            .bind(team.uuid())
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Takes an approved device login and stores the key made for its approver, in one step.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn device_take(
        &self,
        hash: &SecretHash,
        key: impl Fn(UserId, &str, TeamId, String) -> (NewKey, NewAudit),
    ) -> Result<DeviceTaken, StoreError> {
        let key = &key;
        self.run("take a device login", || async move {
            let mut tx = self.pool.begin().await?;
            let row = sqlx::query(
                "SELECT d.*, u.email FROM device_logins d LEFT JOIN users u ON u.id = d.user_id
                 WHERE d.hash = $1 AND d.expires_at > now() FOR UPDATE OF d",
            )
            .bind(hash.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(DeviceTaken::Gone) };
            let (user, team) = (row.try_get::<Option<Uuid>, _>("user_id")?, row.try_get::<Option<Uuid>, _>("team_id")?);
            let Some((user, team)) = user.zip(team) else { return Ok(DeviceTaken::Waiting) };
            let user = UserId::from_uuid(user);
            let email: String = row.try_get("email")?;
            let (key, audit) = key(user, &email, TeamId::from_uuid(team), row.try_get("client")?);
            sqlx::query("DELETE FROM device_logins WHERE hash = $1").bind(hash.as_str()).execute(&mut *tx).await?;
            if create_by(&mut tx, user, &key).await? != TeamAct::Done(()) {
                return Ok(DeviceTaken::Gone);
            }
            note(&mut tx, &[audit]).await?;
            tx.commit().await?;
            Ok(DeviceTaken::Done(Box::new(key)))
        })
        .await
    }
}
