//! API keys. Only hashes are stored.
//!
//! Owner of: every column of team_api_keys, and of teams what the command line of the server needs.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wrenn_domain::ids::{KeyId, TeamId, UserId};
use wrenn_domain::key::ApiKeyHash;
use wrenn_domain::limits::KEYS_PER_TEAM_MAX;
use wrenn_domain::role::{Act, Role};

use super::audit::{NewAudit, note};
use super::teams::{TeamAct, acting_role};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// Team and person a valid key speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyActor {
    pub key: KeyId,
    pub key_name: String,
    pub team: TeamId,
    /// The person it speaks for; none for a team's key.
    pub acts_for: Option<KeyUser>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// The person a personal key speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUser {
    pub user: UserId,
    pub email: String,
    pub name: String,
    pub role: Role,
}

/// A key to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub id: KeyId,
    pub team: TeamId,
    pub name: String,
    pub hash: ApiKeyHash,
    pub prefix: String,
    pub created_by: Option<UserId>,
    /// Speaks for its maker rather than for the team.
    pub personal: bool,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A stored key, without its secret.
#[derive(Debug, Clone)]
pub struct KeyRow {
    pub id: KeyId,
    pub team: TeamId,
    pub team_name: String,
    pub name: String,
    pub prefix: String,
    pub created_by: Option<UserId>,
    pub creator_email: Option<String>,
    pub personal: bool,
    pub created_at: DateTime<Utc>,
    pub last_used: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Store {
    /// The team of this name, made with `fresh` as its id when there is none.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_ensure(&self, name: &str, fresh: TeamId, slug: &str) -> Result<TeamId, StoreError> {
        self.run("find or make a team", || async {
            let mut tx = self.pool.begin().await?;
            // Names are not unique by law; this lock keeps two callers of this function from making one twice.
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('team:' || $1, 0))")
                .bind(name)
                .execute(&mut *tx)
                .await?;
            let found: Option<Uuid> = sqlx::query_scalar(
                "SELECT id FROM teams WHERE name = $1 AND deleted_at IS NULL AND id <> $2 ORDER BY created_at LIMIT 1",
            )
            .bind(name)
            .bind(Uuid::nil())
            .fetch_optional(&mut *tx)
            .await?;
            let id = match found {
                Some(id) => id,
                None => {
                    sqlx::query("INSERT INTO teams (id, name, slug) VALUES ($1, $2, $3)")
                        .bind(fresh.uuid())
                        .bind(name)
                        .bind(slug)
                        .execute(&mut *tx)
                        .await?;
                    fresh.uuid()
                }
            };
            tx.commit().await?;
            Ok(TeamId::from_uuid(id))
        })
        .await
    }

    /// Stores a key for whoever runs the server. Storing the same id twice changes nothing.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_create(&self, key: &NewKey, audit: &[NewAudit]) -> Result<(), StoreError> {
        self.run("store an API key", || async {
            let mut tx = self.pool.begin().await?;
            insert(&mut tx, key).await?;
            note(&mut tx, audit).await?;
            tx.commit().await
        })
        .await
    }

    /// Stores a key on behalf of a member of its team.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_create_by(&self, by: UserId, key: &NewKey, audit: &[NewAudit]) -> Result<TeamAct<()>, StoreError> {
        self.run("store an API key", || async {
            let mut tx = self.pool.begin().await?;
            let made = create_by(&mut tx, by, key).await?;
            if made == TeamAct::Done(()) {
                note(&mut tx, audit).await?;
                tx.commit().await?;
            }
            Ok(made)
        })
        .await
    }

    /// Actor the key with this hash speaks for; none when unknown, revoked or expired, its team deleted, or its person gone from
    /// the team or switched off.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_actor(&self, hash: ApiKeyHash) -> Result<Option<KeyActor>, StoreError> {
        self.run("look up an API key", || async {
            let row = sqlx::query(
                "SELECT k.id, k.name, k.team_id, k.expires_at, u.id AS user_id, u.email, u.name AS user_name, m.role
                 FROM team_api_keys k JOIN teams t ON t.id = k.team_id
                 LEFT JOIN users u ON u.id = k.acts_for AND u.status = 'active'
                 LEFT JOIN team_members m ON m.user_id = u.id AND m.team_id = k.team_id
                 WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND t.deleted_at IS NULL
                   AND (k.expires_at IS NULL OR k.expires_at > now()) AND (k.acts_for IS NULL OR m.role IS NOT NULL)",
            )
            .bind(hash.to_hex())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(actor).transpose()
        })
        .await
    }

    /// All keys, newest first, at most 1000.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_list(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.run("list API keys", || async {
            let rows = sqlx::query(
                "SELECT k.*, t.name AS team_name, u.email AS creator_email FROM team_api_keys k
                 JOIN teams t ON t.id = k.team_id LEFT JOIN users u ON u.id = k.created_by
                 ORDER BY k.created_at DESC, k.id LIMIT 1000",
            )
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(key_row).collect()
        })
        .await
    }

    /// A team's keys that are not revoked, newest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_list_by_team(&self, team: TeamId) -> Result<Vec<KeyRow>, StoreError> {
        self.run("list a team's API keys", || async {
            let rows = sqlx::query(
                "SELECT k.*, t.name AS team_name, u.email AS creator_email FROM team_api_keys k
                 JOIN teams t ON t.id = k.team_id LEFT JOIN users u ON u.id = k.created_by
                 WHERE k.team_id = $1 AND k.revoked_at IS NULL ORDER BY k.created_at DESC, k.id LIMIT $2",
            )
            .bind(team.uuid())
            .bind(KEYS_PER_TEAM_MAX)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(key_row).collect()
        })
        .await
    }

    /// Takes a key back. Answers its hash (hex) when there is such a key, so that caches can be told.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_revoke(&self, id: KeyId) -> Result<Option<String>, StoreError> {
        self.run("revoke an API key", || async {
            sqlx::query_scalar(
                "UPDATE team_api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING key_hash",
            )
            .bind(id.uuid())
            .fetch_optional(&self.pool)
            .await
        })
        .await
    }

    /// Takes a team's key back on behalf of a member: one's own, or with the role for it anybody's. Answers its hash (hex); none
    /// when it was dead already.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_revoke_by(
        &self,
        team: TeamId,
        by: UserId,
        id: KeyId,
        audit: &[NewAudit],
    ) -> Result<TeamAct<Option<String>>, StoreError> {
        self.run("revoke an API key", || async {
            let mut tx = self.pool.begin().await?;
            let Some(role) = acting_role(&mut tx, team, by).await? else { return Ok(TeamAct::NotThere) };
            let row = sqlx::query(
                "SELECT created_by, key_hash, revoked_at IS NOT NULL AS dead FROM team_api_keys
                 WHERE id = $1 AND team_id = $2 FOR UPDATE",
            )
            .bind(id.uuid())
            .bind(team.uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(TeamAct::NoTarget) };
            let own = row.try_get::<Option<Uuid>, _>("created_by")? == Some(by.uuid());
            if !role.may(if own { Act::ManageOwnKeys } else { Act::RevokeAnyKey }) {
                return Ok(TeamAct::Refused);
            }
            if row.try_get("dead")? {
                return Ok(TeamAct::Done(None));
            }
            sqlx::query("UPDATE team_api_keys SET revoked_at = now() WHERE id = $1")
                .bind(id.uuid())
                .execute(&mut *tx)
                .await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(Some(row.try_get("key_hash")?)))
        })
        .await
    }

    /// Notes that keys were used, unless noted within the last minute.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn key_touch(&self, keys: &[KeyId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = keys.iter().map(|k| k.uuid()).collect();
        self.run("note the use of API keys", || async {
            sqlx::query(
                "UPDATE team_api_keys SET last_used = now()
                 WHERE id = ANY($1) AND (last_used IS NULL OR last_used < now() - interval '1 minute')",
            )
            .bind(&ids)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }
}

/// Stores a key if its maker may; the team's row stays locked.
pub(super) async fn create_by(
    tx: &mut sqlx::PgConnection,
    by: UserId,
    key: &NewKey,
) -> Result<TeamAct<()>, sqlx::Error> {
    match acting_role(tx, key.team, by).await? {
        None => return Ok(TeamAct::NotThere),
        Some(role) if !role.may(Act::ManageOwnKeys) => return Ok(TeamAct::Refused),
        Some(_) => {}
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM team_api_keys WHERE team_id = $1 AND revoked_at IS NULL")
        .bind(key.team.uuid())
        .fetch_one(&mut *tx)
        .await?;
    if count >= KEYS_PER_TEAM_MAX {
        return Ok(TeamAct::Full);
    }
    insert(tx, key).await?;
    Ok(TeamAct::Done(()))
}

async fn insert(tx: &mut sqlx::PgConnection, key: &NewKey) -> Result<(), sqlx::Error> {
    let maker = key.created_by.map(UserId::uuid);
    sqlx::query(
        "INSERT INTO team_api_keys (id, team_id, name, key_hash, key_prefix, created_by, acts_for, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
    )
    .bind(key.id.uuid())
    .bind(key.team.uuid())
    .bind(&key.name)
    .bind(key.hash.to_hex())
    .bind(&key.prefix)
    .bind(maker)
    .bind(maker.filter(|_| key.personal))
    .bind(key.expires_at)
    .execute(tx)
    .await?;
    Ok(())
}

fn actor(row: &PgRow) -> Result<KeyActor, sqlx::Error> {
    let role = row.try_get::<Option<&str>, _>("role")?;
    let acts_for = match role {
        None => None,
        Some(role) => Some(KeyUser {
            user: UserId::from_uuid(row.try_get("user_id")?),
            email: row.try_get("email")?,
            name: row.try_get("user_name")?,
            role: role.parse().map_err(|_| corrupt("team_members.role"))?,
        }),
    };
    Ok(KeyActor {
        key: KeyId::from_uuid(row.try_get("id")?),
        key_name: row.try_get("name")?,
        team: TeamId::from_uuid(row.try_get("team_id")?),
        acts_for,
        expires_at: row.try_get("expires_at")?,
    })
}

fn key_row(row: &PgRow) -> Result<KeyRow, sqlx::Error> {
    Ok(KeyRow {
        id: KeyId::from_uuid(row.try_get("id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        team_name: row.try_get("team_name")?,
        name: row.try_get("name")?,
        prefix: row.try_get("key_prefix")?,
        created_by: row.try_get::<Option<Uuid>, _>("created_by")?.map(UserId::from_uuid),
        creator_email: row.try_get("creator_email")?,
        personal: row.try_get::<Option<Uuid>, _>("acts_for")?.is_some(),
        created_at: row.try_get("created_at")?,
        last_used: row.try_get("last_used")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}
