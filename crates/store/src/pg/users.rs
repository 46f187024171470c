//! User accounts: reading them, the sign-up, the password.
//!
//! Owner of: users (departures.rs ends accounts, admin.rs lists and switches them), account_tokens.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::account::{Email, PersonName, TeamName};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::secret::SecretHash;

use super::audit::{NewAudit, note};
use super::facts::claim_first_admin;
use super::teams::insert_team;
use crate::error::corrupt;
use crate::{Store, StoreError};

/// Standing of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserStatus {
    Inactive,
    Active,
    Disabled,
    Deleted,
}

/// An account.
#[derive(Clone)]
pub struct User {
    pub id: UserId,
    pub email: String,
    pub name: String,
    /// PHC text; none when the account has no password.
    pub password_hash: Option<String>,
    pub status: UserStatus,
    pub is_admin: bool,
    /// Id of the team an activation makes.
    pub first_team: TeamId,
    pub created_at: DateTime<Utc>,
}

/// What a single-use token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPurpose {
    Activation,
    PasswordReset,
}

/// A sign-up by e-mail and password.
#[derive(Clone)]
pub struct SignUp {
    pub user: UserId,
    pub first_team: TeamId,
    pub email: Email,
    pub name: PersonName,
    pub password_hash: String,
    pub token: SecretHash,
    /// How long the token lives and the address stays this sign-up's.
    pub keep: Duration,
}

/// How a sign-up went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedUp {
    /// Waits for its activation.
    Pending,
    /// Another one with this address is pending.
    Cooling,
    /// The address has an account.
    Taken(UserStatus),
}

/// An activated account's beginning.
#[derive(Debug, Clone)]
pub struct Activated {
    pub user: UserId,
    pub team: TeamId,
    pub is_admin: bool,
}

impl UserStatus {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }

    pub(super) fn read(word: &str) -> Result<Self, sqlx::Error> {
        [Self::Inactive, Self::Active, Self::Disabled, Self::Deleted]
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| corrupt("users.status"))
    }
}

impl TokenPurpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Activation => "activation",
            Self::PasswordReset => "password_reset",
        }
    }
}

impl Store {
    /// The account of an address, whatever its status.
    pub async fn user_by_email(&self, email: &Email) -> Result<Option<User>, StoreError> {
        self.run("look up an account", || async {
            let row = sqlx::query("SELECT * FROM users WHERE email = $1")
                .bind(email.as_str())
                .fetch_optional(&self.pool)
                .await?;
            row.as_ref().map(user).transpose()
        })
        .await
    }

    /// An account, whatever its status.
    pub async fn user_get(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.run("look up an account", || async {
            let row =
                sqlx::query("SELECT * FROM users WHERE id = $1").bind(id.uuid()).fetch_optional(&self.pool).await?;
            row.as_ref().map(user).transpose()
        })
        .await
    }

    /// Puts a sign-up where its activation finds it. A pending one older than `keep` gives way: its address was never
    /// confirmed.
    pub async fn user_sign_up(&self, new: &SignUp) -> Result<SignedUp, StoreError> {
        self.run("store a sign-up", || async {
            let mut tx = self.pool.begin().await?;
            let placed: Option<Uuid> = sqlx::query_scalar(
                "INSERT INTO users AS u (id, email, name, password_hash, status, first_team_id)
                 VALUES ($1, $2, $3, $4, 'inactive', $5)
                 ON CONFLICT (email) DO UPDATE SET name = excluded.name, password_hash = excluded.password_hash,
                   created_at = now(), updated_at = now()
                 WHERE u.status = 'inactive' AND u.created_at <= now() - $6 * interval '1 second' RETURNING id",
            )
            .bind(new.user.uuid())
            .bind(new.email.as_str())
            .bind(new.name.as_str())
            .bind(&new.password_hash)
            .bind(new.first_team.uuid())
            .bind(new.keep.as_secs_f64())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(id) = placed else {
                let status: String = sqlx::query_scalar("SELECT status FROM users WHERE email = $1")
                    .bind(new.email.as_str())
                    .fetch_one(&mut *tx)
                    .await?;
                return Ok(match UserStatus::read(&status)? {
                    UserStatus::Inactive => SignedUp::Cooling,
                    status => SignedUp::Taken(status),
                });
            };
            put_token(&mut tx, UserId::from_uuid(id), TokenPurpose::Activation, &new.token, new.keep).await?;
            tx.commit().await?;
            Ok(SignedUp::Pending)
        })
        .await
    }

    /// Whose activation a token is. Takes nothing.
    pub async fn user_by_activation(&self, token: &SecretHash) -> Result<Option<User>, StoreError> {
        self.run("look up an activation", || async {
            let row = sqlx::query(
                "SELECT u.* FROM account_tokens t JOIN users u ON u.id = t.user_id
                 WHERE t.hash = $1 AND t.purpose = 'activation' AND t.expires_at > now() AND u.status = 'inactive'",
            )
            .bind(token.as_str())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(user).transpose()
        })
        .await
    }

    /// Takes an activation token and makes the account whole: active, owner of its first team, admin if it is the first of
    /// all. None when the token is not valid any more.
    pub async fn user_activate(
        &self,
        token: &SecretHash,
        slug: &str,
        audit: impl Fn(&User) -> Vec<NewAudit>,
    ) -> Result<Option<Activated>, StoreError> {
        let audit = &audit;
        self.run("activate an account", || async move {
            let mut tx = self.pool.begin().await?;
            let Some(id) = take_token(&mut tx, TokenPurpose::Activation, token).await? else { return Ok(None) };
            let row = sqlx::query(
                "UPDATE users SET status = 'active', updated_at = now() WHERE id = $1 AND status = 'inactive' RETURNING *",
            )
            .bind(id.uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(user) = row.as_ref().map(user).transpose()? else { return Ok(None) };
            let activated = settle_in(&mut tx, &user, slug).await?;
            note(&mut tx, &audit(&user)).await?;
            tx.commit().await?;
            Ok(Some(activated))
        })
        .await
    }

    /// Stores a token and forgets earlier ones of its purpose. False when the account is not active any more.
    pub async fn reset_token_create(
        &self,
        user: UserId,
        token: &SecretHash,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        self.run("store a reset token", || async {
            let mut tx = self.pool.begin().await?;
            let active: Option<bool> =
                sqlx::query_scalar("SELECT true FROM users WHERE id = $1 AND status = 'active' FOR SHARE")
                    .bind(user.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            if active.is_none() {
                return Ok(false);
            }
            put_token(&mut tx, user, TokenPurpose::PasswordReset, token, keep).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Takes a reset token and sets the password; every session and open reset of the account ends. None when the token is
    /// not valid any more.
    pub async fn password_reset(
        &self,
        token: &SecretHash,
        hash: &str,
        audit: impl Fn(&User) -> Vec<NewAudit>,
    ) -> Result<Option<User>, StoreError> {
        let audit = &audit;
        self.run("reset a password", || async move {
            let mut tx = self.pool.begin().await?;
            let Some(id) = take_token(&mut tx, TokenPurpose::PasswordReset, token).await? else { return Ok(None) };
            let Some(user) = set_password(&mut tx, id, hash, None).await? else { return Ok(None) };
            note(&mut tx, &audit(&user)).await?;
            tx.commit().await?;
            Ok(Some(user))
        })
        .await
    }

    /// Sets the password if it is still `seen`; every session and open reset of the account ends. False when it changed
    /// meanwhile.
    pub async fn password_change(
        &self,
        id: UserId,
        seen: Option<&str>,
        hash: &str,
        audit: &[NewAudit],
    ) -> Result<bool, StoreError> {
        self.run("change a password", || async {
            let mut tx = self.pool.begin().await?;
            if set_password(&mut tx, id, hash, Some(seen)).await?.is_none() {
                return Ok(false);
            }
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Replaces the hash of an unchanged password by one of today's strength. Ends no session.
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

    /// Changes what a person is called. Cached sessions are told by the new generation, which is answered.
    pub async fn user_rename(&self, id: UserId, name: &PersonName) -> Result<Option<i64>, StoreError> {
        self.run("rename a user", || async {
            sqlx::query_scalar(
                "UPDATE users SET name = $2, session_generation = session_generation + 1, updated_at = now()
                 WHERE id = $1 AND status = 'active' RETURNING session_generation",
            )
            .bind(id.uuid())
            .bind(name.as_str())
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// Users who share a team with `asker` and whose address begins so; at most ten.
    pub async fn user_search(&self, asker: UserId, prefix: &str) -> Result<Vec<(UserId, String)>, StoreError> {
        self.run("search users", || async {
            let rows = sqlx::query(
                "SELECT DISTINCT u.id, u.email FROM team_members mine
                 JOIN team_members theirs ON theirs.team_id = mine.team_id JOIN users u ON u.id = theirs.user_id
                 WHERE mine.user_id = $1 AND u.status = 'active' AND starts_with(u.email, $2) ORDER BY u.email LIMIT 10",
            )
            .bind(asker.uuid())
            .bind(prefix)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(|row| Ok((UserId::from_uuid(row.try_get("id")?), row.try_get("email")?))).collect()
        })
        .await
    }

    /// Removes what is past its time: tokens, sessions, OAuth round trips, device logins, sign-ups nobody confirmed.
    pub async fn account_sweep(&self) -> Result<(), StoreError> {
        self.run("remove what is past its time", || async {
            for statement in [
                "DELETE FROM account_tokens WHERE expires_at < now()",
                "DELETE FROM sessions WHERE expires_at < now()",
                "DELETE FROM oauth_states WHERE expires_at < now()",
                "DELETE FROM device_logins WHERE expires_at < now()",
                "DELETE FROM users WHERE status = 'inactive' AND created_at < now() - interval '7 days'",
            ] {
                sqlx::query(statement).execute(&self.pool).await?;
            }
            Ok(())
        })
        .await
    }
}

/// Gives a new account its team and, if it is the first of all, the platform.
pub(super) async fn settle_in(tx: &mut PgConnection, user: &User, slug: &str) -> Result<Activated, sqlx::Error> {
    // A name that is no valid one for a team (older rules) still makes a team.
    let name = user.name.parse::<PersonName>().map(|name| TeamName::of_person(&name));
    let name = name.as_ref().map_or("My Team", TeamName::as_str);
    insert_team(tx, user.first_team, name, slug, user.id, true).await?;
    let is_admin = claim_first_admin(tx, &user.id.to_string()).await?;
    if is_admin {
        sqlx::query("UPDATE users SET is_admin = true WHERE id = $1").bind(user.id.uuid()).execute(tx).await?;
    }
    Ok(Activated { user: user.id, team: user.first_team, is_admin })
}

async fn put_token(
    tx: &mut PgConnection,
    user: UserId,
    purpose: TokenPurpose,
    token: &SecretHash,
    keep: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM account_tokens WHERE user_id = $1 AND purpose = $2")
        .bind(user.uuid())
        .bind(purpose.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO account_tokens (hash, user_id, purpose, expires_at)
         VALUES ($1, $2, $3, now() + $4 * interval '1 second')",
    )
    .bind(token.as_str())
    .bind(user.uuid())
    .bind(purpose.as_str())
    .bind(keep.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes a token: it works for exactly one caller.
async fn take_token(
    tx: &mut PgConnection,
    purpose: TokenPurpose,
    token: &SecretHash,
) -> Result<Option<UserId>, sqlx::Error> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "DELETE FROM account_tokens WHERE hash = $1 AND purpose = $2 AND expires_at > now() RETURNING user_id",
    )
    .bind(token.as_str())
    .bind(purpose.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(id.map(UserId::from_uuid))
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
    sqlx::query("DELETE FROM account_tokens WHERE user_id = $1").bind(id.uuid()).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(id.uuid()).execute(&mut *tx).await?;
    Ok(Some(user))
}

pub(super) fn user(row: &PgRow) -> Result<User, sqlx::Error> {
    Ok(User {
        id: UserId::from_uuid(row.try_get("id")?),
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        status: UserStatus::read(row.try_get("status")?)?,
        is_admin: row.try_get("is_admin")?,
        first_team: TeamId::from_uuid(row.try_get("first_team_id")?),
        created_at: row.try_get("created_at")?,
    })
}
