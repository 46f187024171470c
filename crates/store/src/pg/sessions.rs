//! Sessions of people in browsers. The cookie's value is never stored, only its hash.
//!
//! Owner of: sessions, users.session_generation (with users.rs, teams.rs and departures.rs, which end sessions). Truth is here; what caches
//! say is good only while the user's generation is the one they saw.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::{SESSION_AGE_MAX, SESSION_IDLE_MAX, SESSIONS_PER_USER_MAX};
use wrenn_domain::role::Role;
use wrenn_domain::secret::SecretHash;

use crate::error::corrupt;
use crate::{Store, StoreError};

/// A session to be made.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub hash: SecretHash,
    pub user: UserId,
    pub team: Option<TeamId>,
    pub user_agent: String,
    pub ip_address: String,
}

/// A living session with what it says of its user now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    pub user: UserId,
    pub email: String,
    pub name: String,
    /// For display; admin acts ask the database again.
    pub is_admin: bool,
    /// None when the user is in no team, or no longer in the session's.
    pub team: Option<(TeamId, Role)>,
    /// The user's session generation when this was read.
    pub generation: i64,
    pub expires_at: DateTime<Utc>,
}

/// A session in the list its user sees.
#[derive(Debug, Clone)]
pub struct SessionRow {
    pub hash: String,
    pub user_agent: String,
    pub ip_address: String,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

const ALIVE: &str = "s.expires_at > now() AND s.last_seen_at > now() - $2 * interval '1 second'";

impl Store {
    /// Makes a session of an active user. `instead` ends in the same step. None when the account is not active (any more).
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_create(
        &self,
        new: &NewSession,
        instead: Option<&SecretHash>,
    ) -> Result<Option<SessionFacts>, StoreError> {
        self.run("make a session", || async {
            let mut tx = self.pool.begin().await?;
            // Shared with nobody who ends sessions of this user: they update this row.
            let active: Option<bool> =
                sqlx::query_scalar("SELECT true FROM users WHERE id = $1 AND status = 'active' FOR SHARE")
                    .bind(new.user.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            if active.is_none() {
                return Ok(None);
            }
            if let Some(old) = instead {
                sqlx::query("DELETE FROM sessions WHERE id = $1").bind(old.as_str()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "INSERT INTO sessions (id, user_id, team_id, user_agent, ip_address, expires_at)
                 VALUES ($1, $2, $3, $4, $5, now() + $6 * interval '1 second') ON CONFLICT (id) DO NOTHING",
            )
            .bind(new.hash.as_str())
            .bind(new.user.uuid())
            .bind(new.team.map(TeamId::uuid))
            .bind(&new.user_agent)
            .bind(&new.ip_address)
            .bind(SESSION_AGE_MAX.as_secs_f64())
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "DELETE FROM sessions WHERE id IN
                   (SELECT id FROM sessions WHERE user_id = $1 ORDER BY last_seen_at DESC, created_at DESC OFFSET $2)",
            )
            .bind(new.user.uuid())
            .bind(SESSIONS_PER_USER_MAX)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            read(&self.pool, &new.hash).await
        })
        .await
    }

    /// A living session; none when it is unknown, ended, idle or old, or its user is not active.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_get(&self, hash: &SecretHash) -> Result<Option<SessionFacts>, StoreError> {
        self.run("look up a session", || read(&self.pool, hash)).await
    }

    /// A user's living sessions, newest use first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_list(&self, user: UserId) -> Result<Vec<SessionRow>, StoreError> {
        self.run("list sessions", || async {
            let sql =
                format!("SELECT s.* FROM sessions s WHERE s.user_id = $1 AND {ALIVE} ORDER BY last_seen_at DESC, id");
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(user.uuid())
                .bind(SESSION_IDLE_MAX.as_secs_f64())
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(session_row).collect()
        })
        .await
    }

    /// Ends one session of a user. Answers the user's new generation, by which caches know.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_end(&self, user: UserId, hash: &SecretHash) -> Result<i64, StoreError> {
        self.run("end a session", || async {
            let mut tx = self.pool.begin().await?;
            let generation = next_generation(&mut tx, user).await?;
            sqlx::query("DELETE FROM sessions WHERE id = $1 AND user_id = $2")
                .bind(hash.as_str())
                .bind(user.uuid())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(generation)
        })
        .await
    }

    /// Ends all sessions of a user. Answers the new generation.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_end_all(&self, user: UserId) -> Result<i64, StoreError> {
        self.run("end all sessions", || async {
            let mut tx = self.pool.begin().await?;
            let generation = next_generation(&mut tx, user).await?;
            sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(user.uuid()).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(generation)
        })
        .await
    }

    /// The generation caches must have seen.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_generation(&self, user: UserId) -> Result<Option<i64>, StoreError> {
        self.run("read a session generation", || async {
            sqlx::query_scalar("SELECT session_generation FROM users WHERE id = $1")
                .bind(user.uuid())
                .fetch_optional(&self.pool)
                .await
        })
        .await
    }

    /// Notes the use of sessions, unless noted within the last half minute. A session that went idle stays so.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn session_touch(&self, hashes: &[String]) -> Result<(), StoreError> {
        self.run("note the use of sessions", || async {
            sqlx::query(
                "UPDATE sessions SET last_seen_at = now() WHERE id = ANY($1)
                   AND last_seen_at < now() - interval '30 seconds' AND last_seen_at > now() - $2 * interval '1 second'",
            )
            .bind(hashes)
            .bind(SESSION_IDLE_MAX.as_secs_f64())
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }
}

/// A new generation of a user's sessions, inside the caller's transaction. Zero when there is no such user.
pub(super) async fn next_generation(tx: &mut sqlx::PgConnection, user: UserId) -> Result<i64, sqlx::Error> {
    let generation: Option<i64> = sqlx::query_scalar(
        "UPDATE users SET session_generation = session_generation + 1 WHERE id = $1 RETURNING session_generation",
    )
    .bind(user.uuid())
    .fetch_optional(tx)
    .await?;
    Ok(generation.unwrap_or(0))
}

async fn read(pool: &sqlx::PgPool, hash: &SecretHash) -> Result<Option<SessionFacts>, sqlx::Error> {
    let sql = format!(
        "SELECT s.user_id, s.expires_at, u.email, u.name, u.is_admin, u.session_generation, m.role, t.id AS team_id
         FROM sessions s JOIN users u ON u.id = s.user_id
         LEFT JOIN teams t ON t.id = s.team_id AND t.deleted_at IS NULL
         LEFT JOIN team_members m ON m.team_id = t.id AND m.user_id = s.user_id
         WHERE s.id = $1 AND u.status = 'active' AND {ALIVE}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(hash.as_str())
        .bind(SESSION_IDLE_MAX.as_secs_f64())
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(facts).transpose()
}

fn facts(row: &PgRow) -> Result<SessionFacts, sqlx::Error> {
    let role = row.try_get::<Option<&str>, _>("role")?;
    let role = role.map(|word| word.parse::<Role>().map_err(|_| corrupt("team_members.role"))).transpose()?;
    let team = row.try_get::<Option<Uuid>, _>("team_id")?.map(TeamId::from_uuid);
    Ok(SessionFacts {
        user: UserId::from_uuid(row.try_get("user_id")?),
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        is_admin: row.try_get("is_admin")?,
        team: team.zip(role),
        generation: row.try_get("session_generation")?,
        expires_at: row.try_get("expires_at")?,
    })
}

fn session_row(row: &PgRow) -> Result<SessionRow, sqlx::Error> {
    Ok(SessionRow {
        hash: row.try_get("id")?,
        user_agent: row.try_get("user_agent")?,
        ip_address: row.try_get("ip_address")?,
        created_at: row.try_get("created_at")?,
        last_seen_at: row.try_get("last_seen_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}
