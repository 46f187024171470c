//! Templates a sandbox can be made from: the team's own and the platform's.
//!
//! Owner of: every column of templates (hosts add the platform's images when they report them, snapshots.rs adds and removes those
//! of captured sandboxes). Only ready ones are seen here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;
use wrenn_domain::ids::{HostId, PLATFORM_TEAM, TeamId, TemplateId};
use wrenn_domain::limits::LIST_TEMPLATES_MAX;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};

use crate::error::corrupt;
use crate::{Store, StoreError};

/// A template.
#[derive(Debug, Clone)]
pub struct Template {
    pub id: TemplateId,
    pub name: TemplateName,
    pub kind: TemplateKind,
    pub vcpus: Option<Vcpus>,
    pub memory: Option<MemoryMib>,
    /// Disk of a snapshot: a sandbox made from it has at least this.
    pub disk: Option<DiskMib>,
    /// The only host that has the snapshot; none for an image.
    pub host: Option<HostId>,
    pub size_bytes: i64,
    pub default_user: String,
    pub default_env: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
    pub protected: bool,
    /// The platform's, not the team's own.
    pub platform: bool,
    pub created_at: DateTime<Utc>,
}

/// base: an image only. snapshot: memory too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateKind {
    Base,
    Snapshot,
}

impl TemplateKind {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Snapshot => "snapshot",
        }
    }
}

impl Store {
    /// The template a name means to a team: its own first, else the platform's.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn template_get(&self, team: TeamId, name: &TemplateName) -> Result<Option<Template>, StoreError> {
        self.run("look up a template", || async {
            let row = sqlx::query(
                "SELECT * FROM templates WHERE name = $1 AND team_id IN ($2, $3) AND state = 'ready'
                 ORDER BY team_id = $3 LIMIT 1",
            )
            .bind(name.as_str())
            .bind(team.uuid())
            .bind(PLATFORM_TEAM.uuid())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(template).transpose()
        })
        .await
    }

    /// The team's and the platform's templates, newest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn template_list(&self, team: TeamId, kind: Option<TemplateKind>) -> Result<Vec<Template>, StoreError> {
        self.run("list templates", || async {
            let rows = sqlx::query(
                "SELECT * FROM templates WHERE team_id IN ($1, $2) AND ($3::text IS NULL OR type = $3) AND state = 'ready'
                 ORDER BY created_at DESC, name LIMIT $4",
            )
            .bind(team.uuid())
            .bind(PLATFORM_TEAM.uuid())
            .bind(kind.map(TemplateKind::as_str))
            .bind(LIST_TEMPLATES_MAX)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(template).collect()
        })
        .await
    }
}

pub(super) fn template(row: &PgRow) -> Result<Template, sqlx::Error> {
    Ok(Template {
        id: TemplateId::from_uuid(row.try_get("id")?),
        name: row.try_get::<&str, _>("name")?.parse().map_err(|_| corrupt("templates.name"))?,
        kind: match row.try_get::<&str, _>("type")? {
            "base" => TemplateKind::Base,
            "snapshot" => TemplateKind::Snapshot,
            _ => return Err(corrupt("templates.type")),
        },
        vcpus: size(row, "vcpus", Vcpus::from_stored)?,
        memory: size(row, "memory_mib", MemoryMib::from_stored)?,
        disk: size(row, "disk_mib", DiskMib::from_stored)?,
        host: row.try_get::<Option<Uuid>, _>("host_id")?.map(HostId::from_uuid),
        size_bytes: row.try_get("size_bytes")?,
        default_user: row.try_get("default_user")?,
        default_env: row.try_get::<Json<_>, _>("default_env")?.0,
        metadata: row.try_get::<Json<_>, _>("metadata")?.0,
        protected: row.try_get("protected")?,
        platform: row.try_get::<Uuid, _>("team_id")? == PLATFORM_TEAM.uuid(),
        created_at: row.try_get("created_at")?,
    })
}

fn size<T>(row: &PgRow, column: &'static str, read: fn(i32) -> Option<T>) -> Result<Option<T>, sqlx::Error> {
    let stored: Option<i32> = row.try_get(column)?;
    stored.map(|value| read(value).ok_or_else(|| corrupt("templates.size"))).transpose()
}
