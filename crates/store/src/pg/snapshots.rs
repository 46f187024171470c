//! Snapshots of sandboxes: a pending template that holds its name, the job that fills it, and the end of both.
//!
//! Owner of: the birth and death of templates of type snapshot, and of capture and discard jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::event::{EventType, Outcome as EventOutcome};
use wrenn_domain::ids::{EventId, HostId, PLATFORM_TEAM, SandboxId, TeamId};
use wrenn_domain::limits::DISCARD_REPEAT;
use wrenn_domain::names::TemplateName;

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::jobs::{self, NewJob};
use super::outbox::{NewEvent, tell};
use super::sandboxes::{change_row, sandbox};
use super::{Change, Changed, JobKind, Sandbox};
use crate::{Store, StoreError};

/// A snapshot to be made.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// The template's; also names it towards the host.
    pub id: Uuid,
    pub name: TemplateName,
    /// Author of the event that tells how it went.
    pub author: Author,
}

/// What the outside is told of a snapshot's end.
#[derive(Debug, Clone)]
pub struct SnapshotNews {
    pub id: EventId,
    /// Why it did not work, fit for the user.
    pub error: Option<String>,
}

/// How the wish for a snapshot ended.
#[derive(Debug, Clone)]
pub enum SnapshotBegun {
    /// The name is reserved, the job stands, the sandbox is as it is now.
    Begun(Box<Sandbox>),
    /// The team or the platform has a template of this name, or is making one.
    NameTaken,
    /// Somebody changed the sandbox meanwhile; the row as it is now.
    Stale(Box<Sandbox>),
    /// No such sandbox, or it has no host.
    Gone,
}

/// What a host wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    pub size_bytes: i64,
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u32,
    /// MiB.
    pub disk_mib: u32,
}

/// How a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host has it.
    Done(Captured),
    /// The host could not; the name is free again and whatever is left there is removed.
    Failed,
}

impl Store {
    /// Reserves the name, changes the sandbox (`change` must say what becomes of it) and writes the job: all or nothing.
    pub async fn snapshot_begin(
        &self,
        source: &Sandbox,
        new: &NewSnapshot,
        change: &Change,
    ) -> Result<SnapshotBegun, StoreError> {
        let Some(host) = source.host else { return Ok(SnapshotBegun::Gone) };
        self.run_seen("begin a snapshot", || async move {
            let mut tx = self.pool.begin().await?;
            let is_first = reserve(&mut tx, source, host, new).await?;
            if holder(&mut tx, source.team, &new.name).await? != Some(new.id) {
                return Ok(SnapshotBegun::NameTaken);
            }
            if !is_first {
                // Tried again after a commit whose answer was lost.
                return read(&mut tx, source.id).await;
            }
            let sandbox = match change_row(&mut tx, source.id, source.generation, change).await? {
                Changed::Applied(sandbox) => sandbox,
                Changed::Stale(sandbox) => return Ok(SnapshotBegun::Stale(sandbox)),
                Changed::Gone => return Ok(SnapshotBegun::Gone),
            };
            let job =
                NewJob { kind: JobKind::Capture, id: new.id, host, sandbox: Some(source.id), repeat: Duration::ZERO };
            jobs::insert(&mut tx, &job).await?;
            tx.commit().await?;
            Ok(SnapshotBegun::Begun(sandbox))
        })
        .await
    }

    /// Writes how a capture ended, with what that means for its source (id, generation seen, change), if anything: all or
    /// nothing. Stale: the source was changed meanwhile and nothing is written. What is told of it is told once, when this ends
    /// the pending template.
    pub async fn snapshot_settle(
        &self,
        id: Uuid,
        outcome: Outcome,
        news: &SnapshotNews,
        source: Option<(SandboxId, i64, Change)>,
    ) -> Result<Changed, StoreError> {
        let source = &source;
        self.run_seen("settle a snapshot", || async move {
            let mut tx = self.pool.begin().await?;
            match outcome {
                Outcome::Done(captured) => fill(&mut tx, id, captured, news).await?,
                Outcome::Failed => drop_pending(&mut tx, id, news).await?,
            }
            jobs::remove(&mut tx, JobKind::Capture, id).await?;
            let changed = match source {
                Some((sandbox, seen, change)) => change_row(&mut tx, *sandbox, *seen, change).await?,
                None => Changed::Gone,
            };
            if !matches!(changed, Changed::Stale(_)) {
                tx.commit().await?;
            }
            Ok(changed)
        })
        .await
    }

    /// Whether a template of this name is still being made by the team.
    pub async fn snapshot_is_pending(&self, team: TeamId, name: &TemplateName) -> Result<bool, StoreError> {
        self.run("look up a pending snapshot", || async {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM templates WHERE team_id = $1 AND name = $2 AND state = 'pending')",
            )
            .bind(team.uuid())
            .bind(name.as_str())
            .fetch_one(&self.pool)
            .await
        })
        .await
    }

    /// Removes a ready template; its files follow by a job. Removing it twice changes nothing.
    pub async fn template_delete(&self, id: Uuid, events: &[NewEvent], audit: &[NewAudit]) -> Result<(), StoreError> {
        self.run_seen("delete a template", || async {
            let mut tx = self.pool.begin().await?;
            let row = sqlx::query("DELETE FROM templates WHERE id = $1 AND state = 'ready' RETURNING host_id")
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
            if row.is_some() {
                tell(&mut tx, events).await?;
                note(&mut tx, audit).await?;
            }
            if let Some(host) = row.map(|row| row.try_get::<Option<Uuid>, _>("host_id")).transpose()?.flatten() {
                discard(&mut tx, id, HostId::from_uuid(host), Duration::ZERO).await?;
            }
            tx.commit().await
        })
        .await
    }
}

/// Writes the pending template unless there is one of its name. False: there is.
async fn reserve(
    tx: &mut PgConnection,
    source: &Sandbox,
    host: HostId,
    new: &NewSnapshot,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO templates (id, team_id, name, type, state, vcpus, memory_mib, disk_mib, host_id, default_user, default_env,
           metadata, wished_by)
         VALUES ($1, $2, $3, 'snapshot', 'pending', $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (team_id, name) DO NOTHING",
    )
    .bind(new.id)
    .bind(source.team.uuid())
    .bind(new.name.as_str())
    .bind(source.vcpus as i32)
    .bind(source.memory_mib as i32)
    .bind(source.disk_mib as i32)
    .bind(host.uuid())
    .bind(&source.origin.default_user)
    .bind(Json(&source.origin.default_env))
    .bind(Json(versions(&source.system_metadata)))
    .bind(Json(AuthorJson::from(&new.author)))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Who has a name, for a team: the platform's template before its own.
async fn holder(tx: &mut PgConnection, team: TeamId, name: &TemplateName) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM templates WHERE team_id IN ($1, $2) AND name = $3 ORDER BY team_id = $2 DESC LIMIT 1",
    )
    .bind(team.uuid())
    .bind(PLATFORM_TEAM.uuid())
    .bind(name.as_str())
    .fetch_optional(tx)
    .await
}

async fn read(tx: &mut PgConnection, id: SandboxId) -> Result<SnapshotBegun, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1").bind(id.uuid()).fetch_optional(tx).await?;
    Ok(match row {
        Some(row) => SnapshotBegun::Begun(Box::new(sandbox(&row)?)),
        None => SnapshotBegun::Gone,
    })
}

async fn fill(tx: &mut PgConnection, id: Uuid, captured: Captured, news: &SnapshotNews) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "UPDATE templates SET state = 'ready', size_bytes = $2, vcpus = $3, memory_mib = $4, disk_mib = $5, created_at = now()
         WHERE id = $1 AND state = 'pending' RETURNING team_id, name, wished_by",
    )
    .bind(id)
    .bind(captured.size_bytes)
    .bind(captured.vcpus as i32)
    .bind(captured.memory_mib as i32)
    .bind(captured.disk_mib as i32)
    .fetch_optional(&mut *tx)
    .await?;
    match row {
        Some(row) => tell(tx, &[end_of(&row, news)?]).await,
        None => Ok(()),
    }
}

/// The event of a pending template's end.
fn end_of(row: &PgRow, news: &SnapshotNews) -> Result<NewEvent, sqlx::Error> {
    let failed = news.error.is_some();
    let reason = failed.then(|| ("reason".to_owned(), "snapshot_failed".to_owned()));
    Ok(NewEvent {
        id: news.id,
        kind: EventType::SnapshotCreate,
        outcome: Some(if failed { EventOutcome::Error } else { EventOutcome::Success }),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        // One that was begun before authors were kept.
        author: row
            .try_get::<Option<Json<AuthorJson>>, _>("wished_by")?
            .and_then(|author| author.0.read())
            .unwrap_or_else(Author::system),
        resource_type: "snapshot",
        resource_id: row.try_get("name")?,
        metadata: reason.into_iter().collect(),
        error: news.error.clone(),
    })
}

async fn drop_pending(tx: &mut PgConnection, id: Uuid, news: &SnapshotNews) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "DELETE FROM templates WHERE id = $1 AND state = 'pending' RETURNING host_id, team_id, name, wished_by",
    )
    .bind(id)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    tell(tx, &[end_of(&row, news)?]).await?;
    let Some(host) = row.try_get::<Option<Uuid>, _>("host_id")? else { return Ok(()) };
    // The host may still be at it: what it finishes after this must go too.
    discard(tx, id, HostId::from_uuid(host), DISCARD_REPEAT).await
}

async fn discard(tx: &mut PgConnection, id: Uuid, host: HostId, repeat: Duration) -> Result<(), sqlx::Error> {
    jobs::insert(tx, &NewJob { kind: JobKind::Discard, id, host, sandbox: None, repeat }).await
}

/// What of a sandbox's system metadata also holds for what is made from it.
fn versions(system: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    system.iter().filter(|(key, _)| key.ends_with("_version")).map(|(k, v)| (k.as_str(), v.as_str())).collect()
}
