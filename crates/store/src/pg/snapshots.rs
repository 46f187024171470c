//! Snapshots of sandboxes: a pending template that holds its name, the job that fills it, and the end of both.
//!
//! Owner of: the birth and death of templates of type snapshot, and of capture and discard jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::SandboxErrorCode;
use wrenn_domain::event::{EventType, Outcome as EventOutcome};
use wrenn_domain::ids::{EventId, HostId, PLATFORM_TEAM, SandboxId, SnapshotId, TeamId, TemplateId};
use wrenn_domain::limits::DISCARD_REPEAT;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::jobs::{self, NewJob};
use super::outbox::{NewEvent, publish};
use super::sandboxes::{change_row, sandbox};
use super::{Change, Changed, JobKind, Sandbox};
use crate::{Store, StoreError};

/// A snapshot to be made.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Names the snapshot towards the host, and the template it becomes.
    pub id: SnapshotId,
    pub name: TemplateName,
    /// Author of the event that tells how it went.
    pub author: Author,
    /// Whether it takes the name of a snapshot the team has. That one stays until this one is ready.
    pub replace: bool,
}

/// Event data of a snapshot's end.
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

/// Sizes of a snapshot a host wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    pub size_bytes: i64,
    pub vcpus: Vcpus,
    pub memory: MemoryMib,
    pub disk: DiskMib,
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
            if is_taken(&mut tx, source.team, new).await? {
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
            let job = NewJob {
                kind: JobKind::Capture,
                id: new.id.job(),
                host,
                sandbox: Some(source.id),
                repeat: Duration::ZERO,
            };
            jobs::insert(&mut tx, &job).await?;
            tx.commit().await?;
            Ok(SnapshotBegun::Begun(sandbox))
        })
        .await
    }

    /// Writes how a capture ended, with what that means for its source (id, generation seen, change), if anything: all or
    /// nothing. Stale: the source was changed meanwhile and nothing is written. What is told of it is told once, when this ends
    /// the pending template.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn snapshot_settle(
        &self,
        id: SnapshotId,
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
            jobs::remove(&mut tx, JobKind::Capture, id.job()).await?;
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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

    /// Whether a sandbox that was accepted before the snapshot's template was deleted is still to be made from its files.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn snapshot_is_awaited(&self, id: SnapshotId) -> Result<bool, StoreError> {
        self.run("look for creates from a snapshot", || async {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM sandboxes WHERE snapshot_id = $1 AND state = 'starting' AND parent_id IS NULL)",
            )
            .bind(id.uuid())
            .fetch_one(&self.pool)
            .await
        })
        .await
    }

    /// Removes a ready template; its files follow by a job. Removing it twice changes nothing.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn template_delete(
        &self,
        id: TemplateId,
        events: &[NewEvent],
        audit: &[NewAudit],
    ) -> Result<(), StoreError> {
        self.run_seen("delete a template", || async {
            let mut tx = self.pool.begin().await?;
            let row = sqlx::query("DELETE FROM templates WHERE id = $1 AND state = 'ready' RETURNING host_id")
                .bind(id.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            if row.is_some() {
                publish(&mut tx, events).await?;
                note(&mut tx, audit).await?;
            }
            if let Some(host) = row.map(|row| row.try_get::<Option<Uuid>, _>("host_id")).transpose()?.flatten() {
                discard(&mut tx, id.snapshot(), HostId::from_uuid(host), Duration::ZERO).await?;
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
           metadata, requested_by)
         VALUES ($1, $2, $3, 'snapshot', 'pending', $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING",
    )
    .bind(new.id.uuid())
    .bind(source.team.uuid())
    .bind(new.name.as_str())
    .bind(source.vcpus.get() as i32)
    .bind(source.memory.get() as i32)
    .bind(source.disk.get() as i32)
    .bind(host.uuid())
    .bind(&source.origin.default_user)
    .bind(Json(&source.origin.default_env))
    .bind(Json(versions(&source.system_metadata)))
    .bind(Json(AuthorJson::from(&new.author)))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether another template has the name: one of the platform, one that is being made, or one of the team that is not to be replaced.
async fn is_taken(tx: &mut PgConnection, team: TeamId, new: &NewSnapshot) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT 1 FROM templates WHERE id = $1)
           OR EXISTS (SELECT 1 FROM templates WHERE team_id IN ($2, $3) AND name = $4 AND id <> $1
                        AND NOT ($5 AND team_id = $2 AND state = 'ready'))",
    )
    .bind(new.id.uuid())
    .bind(team.uuid())
    .bind(PLATFORM_TEAM.uuid())
    .bind(new.name.as_str())
    .bind(new.replace)
    .fetch_one(tx)
    .await
}

async fn read(tx: &mut PgConnection, id: SandboxId) -> Result<SnapshotBegun, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1").bind(id.uuid()).fetch_optional(tx).await?;
    Ok(match row {
        Some(row) => SnapshotBegun::Begun(Box::new(sandbox(&row)?)),
        None => SnapshotBegun::Gone,
    })
}

async fn fill(
    tx: &mut PgConnection,
    id: SnapshotId,
    captured: Captured,
    news: &SnapshotNews,
) -> Result<(), sqlx::Error> {
    replace(&mut *tx, id).await?;
    let row = sqlx::query(
        "UPDATE templates SET state = 'ready', size_bytes = $2, vcpus = $3, memory_mib = $4, disk_mib = $5, created_at = now()
         WHERE id = $1 AND state = 'pending' RETURNING team_id, name, requested_by",
    )
    .bind(id.uuid())
    .bind(captured.size_bytes)
    .bind(captured.vcpus.get() as i32)
    .bind(captured.memory.get() as i32)
    .bind(captured.disk.get() as i32)
    .fetch_optional(&mut *tx)
    .await?;
    match row {
        Some(row) => publish(tx, &[end_of(&row, news)?]).await,
        None => Ok(()),
    }
}

/// Removes the snapshot whose name a pending one takes, if any; its files follow by a job.
async fn replace(tx: &mut PgConnection, id: SnapshotId) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(
        "DELETE FROM templates o USING templates n WHERE n.id = $1 AND n.state = 'pending' AND o.team_id = n.team_id
           AND o.name = n.name AND o.state = 'ready' AND o.type = 'snapshot' RETURNING o.id, o.host_id",
    )
    .bind(id.uuid())
    .fetch_all(&mut *tx)
    .await?;
    for row in rows {
        let Some(host) = row.try_get::<Option<Uuid>, _>("host_id")? else { continue };
        let old = TemplateId::from_uuid(row.try_get("id")?);
        discard(tx, old.snapshot(), HostId::from_uuid(host), Duration::ZERO).await?;
    }
    Ok(())
}

/// The event of a pending template's end.
fn end_of(row: &PgRow, news: &SnapshotNews) -> Result<NewEvent, sqlx::Error> {
    let failed = news.error.is_some();
    let reason = failed.then(|| ("reason".to_owned(), SandboxErrorCode::SnapshotFailed.to_string()));
    Ok(NewEvent {
        id: news.id,
        kind: EventType::SnapshotCreate,
        outcome: Some(if failed { EventOutcome::Error } else { EventOutcome::Success }),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        // One that was begun before authors were kept.
        author: row
            .try_get::<Option<Json<AuthorJson>>, _>("requested_by")?
            .and_then(|author| author.0.read())
            .unwrap_or_else(Author::system),
        resource_type: "snapshot",
        resource_id: row.try_get("name")?,
        metadata: reason.into_iter().collect(),
        error: news.error.clone(),
    })
}

async fn drop_pending(tx: &mut PgConnection, id: SnapshotId, news: &SnapshotNews) -> Result<(), sqlx::Error> {
    let row = sqlx::query(
        "DELETE FROM templates WHERE id = $1 AND state = 'pending' RETURNING host_id, team_id, name, requested_by",
    )
    .bind(id.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    publish(tx, &[end_of(&row, news)?]).await?;
    let Some(host) = row.try_get::<Option<Uuid>, _>("host_id")? else { return Ok(()) };
    // The host may still be at it: what it finishes after this must go too.
    discard(tx, id, HostId::from_uuid(host), DISCARD_REPEAT).await
}

async fn discard(tx: &mut PgConnection, id: SnapshotId, host: HostId, repeat: Duration) -> Result<(), sqlx::Error> {
    jobs::insert(tx, &NewJob { kind: JobKind::Discard, id: id.job(), host, sandbox: None, repeat }).await
}

/// Part of a sandbox's system metadata that also holds for sandboxes made from it.
fn versions(system: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    system.iter().filter(|(key, _)| key.ends_with("_version")).map(|(k, v)| (k.as_str(), v.as_str())).collect()
}
