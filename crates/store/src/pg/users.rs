//! User accounts: reading them, the sign-up, the name.
//!
//! Owner of: users (passwords.rs changes passwords, departures.rs ends accounts, admin.rs lists and switches them).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::account::{Email, PersonName, TeamName};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::secret::SecretHash;

use super::account_tokens::{TokenPurpose, forget_tokens, take_token};
use super::audit::{NewAudit, note};
use super::outbound_jobs::{NewOutboundJob, enqueue};
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

/// A sign-up by e-mail and password.
#[derive(Clone)]
pub struct SignUp {
    pub user: UserId,
    pub first_team: TeamId,
    pub email: Email,
    pub name: PersonName,
    /// How long the address stays this sign-up's.
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

impl Store {
    /// The account of an address, whatever its status.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_get(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.run("look up an account", || async {
            let row =
                sqlx::query("SELECT * FROM users WHERE id = $1").bind(id.uuid()).fetch_optional(&self.pool).await?;
            row.as_ref().map(user).transpose()
        })
        .await
    }

    /// Puts a sign-up where its activation finds it. A pending one older than `keep` gives way: its address was never
    /// confirmed. `owed` is written however it went, so that every outcome takes as long.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_sign_up(
        &self,
        new: &SignUp,
        job: impl Fn(SignedUp) -> NewOutboundJob,
    ) -> Result<SignedUp, StoreError> {
        let job = &job;
        self.run("store a sign-up", || async move {
            let mut tx = self.pool.begin().await?;
            let placed: Option<Uuid> = sqlx::query_scalar(
                "INSERT INTO users AS u (id, email, name, status, first_team_id) VALUES ($1, $2, $3, 'inactive', $4)
                 ON CONFLICT (email) DO UPDATE SET name = excluded.name, password_hash = NULL,
                   created_at = now(), updated_at = now()
                 WHERE u.status = 'inactive' AND u.created_at <= now() - $5 * interval '1 second' RETURNING id",
            )
            .bind(new.user.uuid())
            .bind(new.email.as_str())
            .bind(new.name.as_str())
            .bind(new.first_team.uuid())
            .bind(new.keep.as_secs_f64())
            .fetch_optional(&mut *tx)
            .await?;
            let outcome = match placed {
                Some(id) => {
                    forget_tokens(&mut tx, UserId::from_uuid(id)).await?;
                    SignedUp::Pending
                }
                None => {
                    let status: String = sqlx::query_scalar("SELECT status FROM users WHERE email = $1")
                        .bind(new.email.as_str())
                        .fetch_one(&mut *tx)
                        .await?;
                    match UserStatus::read(&status)? {
                        UserStatus::Inactive => SignedUp::Cooling,
                        status => SignedUp::Taken(status),
                    }
                }
            };
            enqueue(&mut tx, &[job(outcome)]).await?;
            tx.commit().await?;
            Ok(outcome)
        })
        .await
    }

    /// Whose activation a token is. Takes nothing.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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

    /// Takes an activation token and makes the account whole: active, owner of its first team, with the password
    /// that came with the token, if any: one that was typed before may be somebody else's. None when the token is not valid any more.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_activate(
        &self,
        token: &SecretHash,
        slug: &str,
        password_hash: Option<&str>,
        audit: impl Fn(&User) -> Vec<NewAudit>,
    ) -> Result<Option<Activated>, StoreError> {
        let audit = &audit;
        self.run("activate an account", || async move {
            let mut tx = self.pool.begin().await?;
            let Some(id) = take_token(&mut tx, TokenPurpose::Activation, token).await? else { return Ok(None) };
            let row = sqlx::query(
                "UPDATE users SET status = 'active', password_hash = $2, updated_at = now()
                 WHERE id = $1 AND status = 'inactive' RETURNING *",
            )
            .bind(id.uuid())
            .bind(password_hash)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(user) = row.as_ref().map(user).transpose()? else { return Ok(None) };
            forget_tokens(&mut tx, user.id).await?;
            let activated = settle_in(&mut tx, &user, slug).await?;
            note(&mut tx, &audit(&user)).await?;
            tx.commit().await?;
            Ok(Some(activated))
        })
        .await
    }

    /// Changes what a person is called. Cached sessions are told by the new generation, which is answered.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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

/// Gives a new account its team. Nobody becomes a platform admin by coming first: `wrenn-cp admin create` makes one.
pub(super) async fn settle_in(tx: &mut PgConnection, user: &User, slug: &str) -> Result<Activated, sqlx::Error> {
    // A name that is no valid one for a team (older rules) still makes a team.
    let name = user.name.parse::<PersonName>().map(|name| TeamName::of_person(&name));
    let name = name.as_ref().map_or("My Team", TeamName::as_str);
    insert_team(tx, user.first_team, name, slug, user.id, true).await?;
    Ok(Activated { user: user.id, team: user.first_team, is_admin: user.is_admin })
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
