//! Passwords and the single-use tokens sent by mail. Every change of a password ends every session of the account.
//!
//! Owner of: users.password_hash, account_tokens.

use std::time::Duration;

use sqlx::PgConnection;
use wrenn_domain::account::Email;
use wrenn_domain::ids::{OutboundJobId, UserId};
use wrenn_domain::secret::SecretHash;

use super::account_tokens::{TokenPurpose, forget_tokens, take_token};
use super::audit::{NewAudit, note};
use super::outbound_jobs::{NewOutboundJob, enqueue};
use super::users::{User, UserStatus, user};
use crate::{Store, StoreError};

impl Store {
    /// Writes the token a mail is about to carry to the account of this address. Answers whose it is; none when no such account
    /// waits for one. Earlier tokens of the purpose are dead, except those of the same mail: its first try may have
    /// arrived though its sender never heard so.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn token_issue(
        &self,
        mail: OutboundJobId,
        purpose: TokenPurpose,
        email: &Email,
        token: &SecretHash,
        keep: Duration,
    ) -> Result<Option<User>, StoreError> {
        self.run("store a token", || async {
            let mut tx = self.pool.begin().await?;
            let row = sqlx::query("SELECT * FROM users WHERE email = $1 AND status = $2 FOR UPDATE")
                .bind(email.as_str())
                .bind(status_for(purpose).as_str())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(user) = row.as_ref().map(user).transpose()? else { return Ok(None) };
            sqlx::query(
                "DELETE FROM account_tokens WHERE user_id = $1 AND purpose = $2 AND outbound_job_id IS DISTINCT FROM $3",
            )
            .bind(user.id.uuid())
            .bind(purpose.as_str())
            .bind(mail.uuid())
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO account_tokens (hash, user_id, purpose, expires_at, outbound_job_id)
                 VALUES ($1, $2, $3, now() + $4 * interval '1 second', $5) ON CONFLICT DO NOTHING",
            )
            .bind(token.as_str())
            .bind(user.id.uuid())
            .bind(purpose.as_str())
            .bind(keep.as_secs_f64())
            .bind(mail.uuid())
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Some(user))
        })
        .await
    }

    /// Takes a reset token and sets the password; every session and open reset of the account ends. None when the token is
    /// not valid any more.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn password_reset(
        &self,
        token: &SecretHash,
        hash: &str,
        audit: impl Fn(&User) -> NewAudit,
        job: impl Fn(&User) -> NewOutboundJob,
    ) -> Result<Option<User>, StoreError> {
        let (audit, job) = (&audit, &job);
        self.run("reset a password", || async move {
            let mut tx = self.pool.begin().await?;
            let Some(id) = take_token(&mut tx, TokenPurpose::PasswordReset, token).await? else { return Ok(None) };
            let Some(user) = set_password(&mut tx, id, hash, None).await? else { return Ok(None) };
            note(&mut tx, &[audit(&user)]).await?;
            enqueue(&mut tx, &[job(&user)]).await?;
            tx.commit().await?;
            Ok(Some(user))
        })
        .await
    }

    /// Sets the password if it is still `seen`; every session and open reset of the account ends. False when it changed
    /// meanwhile.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn password_change(
        &self,
        id: UserId,
        seen: Option<&str>,
        hash: &str,
        audit: &[NewAudit],
        jobs: &[NewOutboundJob],
    ) -> Result<bool, StoreError> {
        self.run("change a password", || async {
            let mut tx = self.pool.begin().await?;
            if set_password(&mut tx, id, hash, Some(seen)).await?.is_none() {
                return Ok(false);
            }
            note(&mut tx, audit).await?;
            enqueue(&mut tx, jobs).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Replaces the hash of an unchanged password by one of today's strength. Ends no session.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn password_rehash(&self, id: UserId, seen: &str, hash: &str) -> Result<(), StoreError> {
        self.run("renew a password hash", || async {
            sqlx::query("UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2")
                .bind(id.uuid())
                .bind(seen)
                .bind(hash)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }
}

/// The state of an account that a token of this purpose is for.
fn status_for(purpose: TokenPurpose) -> UserStatus {
    match purpose {
        TokenPurpose::Activation => UserStatus::Inactive,
        TokenPurpose::PasswordReset => UserStatus::Active,
    }
}

/// `seen`: the hash there must be; none: whatever there is.
async fn set_password(
    tx: &mut PgConnection,
    id: UserId,
    hash: &str,
    seen: Option<Option<&str>>,
) -> Result<Option<User>, sqlx::Error> {
    let row = sqlx::query(
        "UPDATE users SET password_hash = $2, session_generation = session_generation + 1, updated_at = now()
         WHERE id = $1 AND status = 'active' AND (NOT $3 OR password_hash IS NOT DISTINCT FROM $4) RETURNING *",
    )
    .bind(id.uuid())
    .bind(hash)
    .bind(seen.is_some())
    .bind(seen.flatten())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(user) = row.as_ref().map(user).transpose()? else { return Ok(None) };
    forget_tokens(tx, id).await?;
    sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(id.uuid()).execute(&mut *tx).await?;
    Ok(Some(user))
}
