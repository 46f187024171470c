//! The audit log: one row per act, written in the transaction of the act.
//!
//! Owner of: audit_logs. Nothing but the purge of an account (users.rs) changes a row.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use wrenn_domain::event::ActorType;
use wrenn_domain::ids::{AuditId, TeamId};

use crate::error::corrupt;
use crate::{Store, StoreError};

/// Author of a change, as audit rows and events name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub kind: ActorType,
    /// usr-..., key-... or host-...; none for the system.
    pub id: Option<String>,
    /// E-mail address of a user, name of a key.
    pub name: String,
}

impl Author {
    /// Nobody outside asked for it.
    pub const fn system() -> Self {
        Self { kind: ActorType::System, id: None, name: String::new() }
    }
}

/// [`Author`] as JSON columns and events hold it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AuthorJson {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    name: String,
}

impl From<&Author> for AuthorJson {
    fn from(author: &Author) -> Self {
        Self { kind: author.kind.as_str().to_owned(), id: author.id.clone(), name: author.name.clone() }
    }
}

impl AuthorJson {
    pub(super) fn read(self) -> Option<Author> {
        Some(Author { kind: self.kind.parse().ok()?, id: self.id, name: self.name })
    }
}

/// Readers who may see an audit row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditScope {
    /// Every member.
    Team,
    /// Owners and admins.
    Admin,
}

/// How grave an act is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditStatus {
    Success,
    Info,
    Warning,
    Error,
}

/// A row to be written.
#[derive(Debug, Clone)]
pub struct NewAudit {
    pub team: TeamId,
    pub author: Author,
    pub resource_type: &'static str,
    pub resource_id: Option<String>,
    pub action: &'static str,
    pub scope: AuditScope,
    pub status: AuditStatus,
    pub metadata: BTreeMap<String, String>,
}

/// A row as stored.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Order of the log; what a cursor holds.
    pub seq: i64,
    pub id: AuditId,
    pub author: Author,
    pub resource_type: String,
    pub resource_id: Option<String>,
    pub action: String,
    pub scope: AuditScope,
    pub status: AuditStatus,
    pub metadata: BTreeMap<String, String>,
    pub created_at: DateTime<Utc>,
}

/// Which rows of a team's log.
#[derive(Debug, Clone)]
pub struct AuditFilter {
    pub team: TeamId,
    /// Rows of scope admin too.
    pub with_admin: bool,
    /// Empty: every type.
    pub resource_types: Vec<String>,
    /// Empty: every action.
    pub actions: Vec<String>,
    /// Only rows before this one.
    pub before: Option<i64>,
    pub limit: i64,
}

impl NewAudit {
    /// A successful act of scope team on one thing.
    pub fn new(team: TeamId, author: Author, resource_type: &'static str, action: &'static str) -> Self {
        Self {
            team,
            author,
            resource_type,
            resource_id: None,
            action,
            scope: AuditScope::Team,
            status: AuditStatus::Success,
            metadata: BTreeMap::new(),
        }
    }

    /// Which thing.
    pub fn on(mut self, id: impl ToString) -> Self {
        self.resource_id = Some(id.to_string());
        self
    }

    /// For the eyes of owners and admins.
    pub fn for_admins(mut self) -> Self {
        self.scope = AuditScope::Admin;
        self
    }

    /// Something was lost by it.
    pub fn warning(mut self) -> Self {
        self.status = AuditStatus::Warning;
        self
    }

    /// Adds a metadata entry to the row.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }
}

impl AuditScope {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::Admin => "admin",
        }
    }
}

impl AuditStatus {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Writes rows inside the caller's transaction.
pub(super) async fn note(tx: &mut PgConnection, rows: &[NewAudit]) -> Result<(), sqlx::Error> {
    for row in rows {
        sqlx::query(
            "INSERT INTO audit_logs (team_id, actor_type, actor_id, actor_name, resource_type, resource_id, action, scope,
               status, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(row.team.uuid())
        .bind(row.author.kind.as_str())
        .bind(&row.author.id)
        .bind(&row.author.name)
        .bind(row.resource_type)
        .bind(&row.resource_id)
        .bind(row.action)
        .bind(row.scope.as_str())
        .bind(row.status.as_str())
        .bind(Json(&row.metadata))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl Store {
    /// Writes one row about something that happens outside this database; acts of ours write theirs in their own
    /// transaction. Tried again after a broken connection it may stand twice: better than not at all.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn audit_note(&self, row: &NewAudit) -> Result<(), StoreError> {
        self.run("write an audit row", || async {
            let mut tx = self.pool.begin().await?;
            note(&mut tx, std::slice::from_ref(row)).await?;
            tx.commit().await
        })
        .await
    }

    /// A page of a team's log, newest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn audit_page(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.run("read the audit log", || async {
            let rows = sqlx::query(
                "SELECT * FROM audit_logs WHERE team_id = $1 AND (scope = 'team' OR $2)
                   AND (cardinality($3::text[]) = 0 OR resource_type = ANY($3))
                   AND (cardinality($4::text[]) = 0 OR action = ANY($4))
                   AND ($5::bigint IS NULL OR seq < $5)
                 ORDER BY seq DESC LIMIT $6",
            )
            .bind(filter.team.uuid())
            .bind(filter.with_admin)
            .bind(&filter.resource_types)
            .bind(&filter.actions)
            .bind(filter.before)
            .bind(filter.limit)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(audit_row).collect()
        })
        .await
    }
}

fn audit_row(row: &PgRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        id: AuditId::from_uuid(row.try_get("id")?),
        author: Author {
            kind: row.try_get::<&str, _>("actor_type")?.parse().map_err(|_| corrupt("audit_logs.actor_type"))?,
            id: row.try_get("actor_id")?,
            name: row.try_get("actor_name")?,
        },
        resource_type: row.try_get("resource_type")?,
        resource_id: row.try_get("resource_id")?,
        action: row.try_get("action")?,
        scope: match row.try_get::<&str, _>("scope")? {
            "team" => AuditScope::Team,
            "admin" => AuditScope::Admin,
            _ => return Err(corrupt("audit_logs.scope")),
        },
        status: match row.try_get::<&str, _>("status")? {
            "success" => AuditStatus::Success,
            "info" => AuditStatus::Info,
            "warning" => AuditStatus::Warning,
            "error" => AuditStatus::Error,
            _ => return Err(corrupt("audit_logs.status")),
        },
        metadata: row.try_get::<Json<_>, _>("metadata")?.0,
        created_at: row.try_get("created_at")?,
    })
}
