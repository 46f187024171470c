//! Teams and their API keys. Only hashes are stored.
//!
//! Owner of: every column of teams (until accounts arrive) and team_api_keys.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wrenn_domain::ids::{KeyId, TeamId};
use wrenn_domain::key::ApiKeyHash;

use crate::{Store, StoreError};

/// Who a valid key speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyActor {
    pub key: KeyId,
    pub key_name: String,
    pub team: TeamId,
}

/// A key to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub id: KeyId,
    pub team: TeamId,
    pub name: String,
    pub hash: ApiKeyHash,
    pub prefix: String,
}

/// A stored key, without its secret.
#[derive(Debug, Clone)]
pub struct KeyRow {
    pub id: KeyId,
    pub team: TeamId,
    pub team_name: String,
    pub name: String,
    pub prefix: String,
    pub created_at: DateTime<Utc>,
    pub last_used: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Store {
    /// The team of this name, made with `fresh` as its id when there is none.
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

    /// Stores a key. Storing the same id twice changes nothing.
    pub async fn key_create(&self, key: &NewKey) -> Result<(), StoreError> {
        self.run("store an API key", || async {
            sqlx::query(
                "INSERT INTO team_api_keys (id, team_id, name, key_hash, key_prefix) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (id) DO NOTHING",
            )
            .bind(key.id.uuid())
            .bind(key.team.uuid())
            .bind(&key.name)
            .bind(key.hash.to_hex())
            .bind(&key.prefix)
            .execute(&self.pool)
            .await
            .map(|_| ())
        })
        .await
    }

    /// Who the key with this hash speaks for; none when unknown, revoked, or its team is deleted.
    pub async fn key_actor(&self, hash: ApiKeyHash) -> Result<Option<KeyActor>, StoreError> {
        self.run("look up an API key", || async {
            let row = sqlx::query(
                "SELECT k.id, k.name, k.team_id FROM team_api_keys k JOIN teams t ON t.id = k.team_id
                 WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND t.deleted_at IS NULL",
            )
            .bind(hash.to_hex())
            .fetch_optional(&self.pool)
            .await?;
            row.map(|row| {
                Ok(KeyActor {
                    key: KeyId::from_uuid(row.try_get("id")?),
                    key_name: row.try_get("name")?,
                    team: TeamId::from_uuid(row.try_get("team_id")?),
                })
            })
            .transpose()
        })
        .await
    }

    /// All keys, newest first, at most 1000.
    pub async fn key_list(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.run("list API keys", || async {
            let rows = sqlx::query(
                "SELECT k.*, t.name AS team_name FROM team_api_keys k JOIN teams t ON t.id = k.team_id
                 ORDER BY k.created_at DESC LIMIT 1000",
            )
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(key_row).collect()
        })
        .await
    }

    /// Takes a key back. Answers its hash (hex) when there is such a key, so that caches can be told.
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

    /// Notes that keys were used, unless noted within the last minute.
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

fn key_row(row: &PgRow) -> Result<KeyRow, sqlx::Error> {
    Ok(KeyRow {
        id: KeyId::from_uuid(row.try_get("id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        team_name: row.try_get("team_name")?,
        name: row.try_get("name")?,
        prefix: row.try_get("key_prefix")?,
        created_at: row.try_get("created_at")?,
        last_used: row.try_get("last_used")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}
