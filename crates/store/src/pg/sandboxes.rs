//! Sandboxes: reading them, and the one way to change their state: compare-and-set on the generation.
//!
//! Owner of: every column of sandboxes but the lease ones (leases.rs) and the row's birth (placement.rs).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::{HostId, SandboxId, TeamId};
use wrenn_domain::limits::LIST_CAPSULES_MAX;
use wrenn_domain::sandbox::SandboxState;

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::outbox::{NewEvent, tell};
use super::signals::DUE_CHANNEL;
use crate::error::corrupt;
use crate::{Store, StoreError};

/// What a sandbox's user wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    Running,
    Paused,
    Stopped,
}

/// What a sandbox was made from, beyond its template's name. Fixed at its birth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The snapshot whose memory it continues; none for an image.
    pub snapshot: Option<Uuid>,
    /// Empty: the image's.
    pub default_user: String,
    pub default_env: BTreeMap<String, String>,
}

/// What traffic from outside may do. Fixed at its birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// It resumes the sandbox when that is paused.
    pub auto_resume: bool,
    /// It may come from anybody who knows the name; else only from callers with a key of the team.
    pub public_ports: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { auto_resume: false, public_ports: true }
    }
}

/// A snapshot under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    /// The pending template's.
    pub id: Uuid,
    /// The sandbox goes back to paused after it, else to running.
    pub from_paused: bool,
}

/// A sandbox as stored.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub id: SandboxId,
    pub team: TeamId,
    pub host: Option<HostId>,
    pub template: String,
    pub template_id: Option<Uuid>,
    pub origin: Origin,
    pub state: SandboxState,
    /// Grows with every change of state; what compare-and-set compares.
    pub generation: i64,
    pub desired: Desired,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub timeout_sec: u32,
    pub traffic: Traffic,
    /// The user's labels.
    pub metadata: BTreeMap<String, String>,
    /// What the host reports (versions).
    pub system_metadata: BTreeMap<String, String>,
    /// Newest host report taken.
    pub report_generation: i64,
    /// Names the newest wish for a pause or resume towards the host.
    pub operation: i64,
    /// Of a crashed one: the host still has its disk. Stays set while that disk is booted again.
    pub disk_kept: bool,
    pub capture: Option<Capture>,
    /// The sandbox it was forked from.
    pub parent: Option<SandboxId>,
    /// The fork that makes it, until its host has confirmed that.
    pub fork: Option<Uuid>,
    pub error: Option<String>,
    pub error_code: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
    pub attempts: u32,
    /// Who asked last for a change.
    pub wished_by: Option<Author>,
}

/// A sandbox with the address of its host's agent.
#[derive(Debug, Clone)]
pub struct PlacedSandbox {
    pub sandbox: Sandbox,
    pub host_address: Option<String>,
}

/// What a change sets; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub state: Option<SandboxState>,
    pub desired: Option<Desired>,
    /// Text for the user and code, of a failure.
    pub error: Option<(String, String)>,
    /// Forgets an earlier failure.
    pub clear_error: bool,
    pub report: Option<ReportMark>,
    /// This is a new wish for a pause or resume: it gets the new generation as its number.
    pub new_operation: bool,
    pub disk_kept: Option<bool>,
    pub timeout_sec: Option<u32>,
    pub capture: Option<Capture>,
    /// Frees the lease, makes the row due at once, and tells every control plane.
    pub due_now: bool,
    /// Who asks for it.
    pub wished_by: Option<Author>,
    /// Told if, and only if, the change is made.
    pub events: Vec<NewEvent>,
    /// Written if, and only if, the change is made.
    pub audit: Vec<NewAudit>,
}

/// What a host report says, fit to be stored.
#[derive(Debug, Clone, Default)]
pub struct ReportMark {
    pub generation: i64,
    pub disk_mib: Option<u32>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub metadata: BTreeMap<String, String>,
    /// When the state it tells of began on the host.
    pub since: Option<DateTime<Utc>>,
}

/// How a compare-and-set ended.
#[derive(Debug, Clone)]
pub enum Changed {
    /// Done; the row as it is now.
    Applied(Box<Sandbox>),
    /// Somebody changed it meanwhile; the row as it is now.
    Stale(Box<Sandbox>),
    /// No such row.
    Gone,
}

impl Store {
    /// One sandbox of a team.
    pub async fn sandbox_get(&self, team: TeamId, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.run("look up a sandbox", || async {
            let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1 AND team_id = $2")
                .bind(id.uuid())
                .bind(team.uuid())
                .fetch_optional(&self.pool)
                .await?;
            row.as_ref().map(sandbox).transpose()
        })
        .await
    }

    /// One sandbox of a team with its host's address.
    pub async fn sandbox_get_placed(&self, team: TeamId, id: SandboxId) -> Result<Option<PlacedSandbox>, StoreError> {
        self.run("look up a sandbox and its host", || async {
            let row = sqlx::query(
                "SELECT s.*, h.address FROM sandboxes s LEFT JOIN hosts h ON h.id = s.host_id
                 WHERE s.id = $1 AND s.team_id = $2",
            )
            .bind(id.uuid())
            .bind(team.uuid())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(placed).transpose()
        })
        .await
    }

    /// One sandbox with its host's address, whatever its team: for traffic, which comes without one.
    pub async fn sandbox_get_for_traffic(&self, id: SandboxId) -> Result<Option<PlacedSandbox>, StoreError> {
        self.run("look up a sandbox for traffic", || async {
            let row = sqlx::query(
                "SELECT s.*, h.address FROM sandboxes s LEFT JOIN hosts h ON h.id = s.host_id WHERE s.id = $1",
            )
            .bind(id.uuid())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(placed).transpose()
        })
        .await
    }

    /// A team's sandboxes that are not over, newest first, and whether there are more than shown.
    pub async fn sandbox_list(&self, team: TeamId) -> Result<(Vec<Sandbox>, bool), StoreError> {
        self.run("list sandboxes", || async {
            let rows = sqlx::query(
                "SELECT * FROM sandboxes WHERE team_id = $1 AND state NOT IN ('stopped', 'error')
                 ORDER BY created_at DESC, id LIMIT $2",
            )
            .bind(team.uuid())
            .bind(LIST_CAPSULES_MAX + 1)
            .fetch_all(&self.pool)
            .await?;
            let more = rows.len() as i64 > LIST_CAPSULES_MAX;
            let shown = rows.iter().take(LIST_CAPSULES_MAX as usize).map(sandbox).collect::<Result<_, _>>()?;
            Ok((shown, more))
        })
        .await
    }

    /// Those of the given sandboxes that are rows here, whatever their team and state.
    pub async fn sandbox_list_by_id(&self, ids: &[SandboxId]) -> Result<Vec<Sandbox>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.run("look up sandboxes", || async {
            let rows =
                sqlx::query("SELECT * FROM sandboxes WHERE id = ANY($1)").bind(&ids).fetch_all(&self.pool).await?;
            rows.iter().map(sandbox).collect()
        })
        .await
    }

    /// A host's sandboxes that are not over.
    pub async fn sandbox_list_by_host(&self, host: HostId) -> Result<Vec<Sandbox>, StoreError> {
        self.run("list a host's sandboxes", || async {
            let rows = sqlx::query("SELECT * FROM sandboxes WHERE host_id = $1 AND state NOT IN ('stopped', 'error')")
                .bind(host.uuid())
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(sandbox).collect()
        })
        .await
    }

    /// Changes a sandbox if its generation is still `seen`.
    pub async fn sandbox_change(&self, id: SandboxId, seen: i64, change: &Change) -> Result<Changed, StoreError> {
        self.run_seen("change a sandbox", || async {
            if change.events.is_empty() && change.audit.is_empty() {
                return update_row(&mut *self.pool.acquire().await?, id, seen, change).await;
            }
            let mut tx = self.pool.begin().await?;
            let changed = change_row(&mut tx, id, seen, change).await?;
            tx.commit().await?;
            Ok(changed)
        })
        .await
    }

    /// Notes activity. Changes no generation: nothing depends on it.
    pub async fn sandbox_touch(&self, ids: &[SandboxId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        self.run("note activity", || async {
            sqlx::query("UPDATE sandboxes SET last_active_at = now() WHERE id = ANY($1)")
                .bind(&ids)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }
}

/// Changes a row, with what is told and noted of it, inside the caller's transaction.
pub(super) async fn change_row(
    tx: &mut PgConnection,
    id: SandboxId,
    seen: i64,
    change: &Change,
) -> Result<Changed, sqlx::Error> {
    let changed = update_row(tx, id, seen, change).await?;
    if matches!(changed, Changed::Applied(_)) {
        tell(tx, &change.events).await?;
        note(tx, &change.audit).await?;
    }
    Ok(changed)
}

async fn update_row(tx: &mut PgConnection, id: SandboxId, seen: i64, change: &Change) -> Result<Changed, sqlx::Error> {
    let state = change.state.map(SandboxState::as_str);
    let desired = change.desired.map(Desired::as_str);
    let (error, error_code) = change.error.clone().unzip();
    let report = change.report.clone();
    let mark = report.clone().unwrap_or_default();
    let (capture, origin) = change.capture.map(|c| (c.id, if c.from_paused { "paused" } else { "running" })).unzip();
    let row = sqlx::query(
        "WITH changed AS (UPDATE sandboxes SET
           state = coalesce($3, state), desired = coalesce($4, desired), generation = generation + 1,
           error = coalesce($5, CASE WHEN $16 THEN NULL ELSE error END),
           error_code = coalesce($6, CASE WHEN $16 THEN NULL ELSE error_code END),
           report_generation = CASE WHEN $7 THEN $8 ELSE report_generation END,
           disk_mib = coalesce($9, disk_mib), started_at = coalesce($10, started_at),
           last_active_at = greatest(last_active_at, $11),
           system_metadata = CASE WHEN $7 AND $12 <> '{}'::jsonb THEN $12 ELSE system_metadata END,
           updated_at = now(),
           lease_owner = CASE WHEN $13 THEN NULL ELSE lease_owner END,
           lease_until = CASE WHEN $13 THEN NULL ELSE lease_until END,
           attempts = CASE WHEN $13 THEN 0 ELSE attempts END,
           next_attempt_at = CASE WHEN $13 THEN now() ELSE next_attempt_at END,
           operation = CASE WHEN $17 THEN generation + 1 ELSE operation END,
           disk_kept = coalesce($18, disk_kept), timeout_sec = coalesce($19, timeout_sec),
           capture_id = coalesce($20, capture_id), capture_origin = coalesce($21, capture_origin),
           wished_by = coalesce($22, wished_by), moved_at = $23
         WHERE id = $1 AND generation = $2 RETURNING *)
         SELECT changed.*, CASE WHEN $13 THEN pg_notify($14, $15)::text END AS told FROM changed",
    )
    .bind(id.uuid())
    .bind(seen)
    .bind(state)
    .bind(desired)
    .bind(&error)
    .bind(&error_code)
    .bind(report.is_some())
    .bind(mark.generation)
    .bind(mark.disk_mib.map(|v| v as i32))
    .bind(mark.started_at)
    .bind(mark.last_active_at)
    .bind(Json(&mark.metadata))
    .bind(change.due_now)
    .bind(DUE_CHANNEL)
    .bind(id.to_string())
    .bind(change.clear_error)
    .bind(change.new_operation)
    .bind(change.disk_kept)
    .bind(change.timeout_sec.map(|v| v as i32))
    .bind(capture)
    .bind(origin)
    .bind(change.wished_by.as_ref().map(|author| Json(AuthorJson::from(author))))
    .bind(mark.since)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = row {
        return Ok(Changed::Applied(Box::new(sandbox(&row)?)));
    }
    let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1").bind(id.uuid()).fetch_optional(&mut *tx).await?;
    match row {
        Some(row) => Ok(Changed::Stale(Box::new(sandbox(&row)?))),
        None => Ok(Changed::Gone),
    }
}

impl Desired {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

pub(super) fn placed(row: &PgRow) -> Result<PlacedSandbox, sqlx::Error> {
    Ok(PlacedSandbox { sandbox: sandbox(row)?, host_address: row.try_get("address")? })
}

pub(super) fn sandbox(row: &PgRow) -> Result<Sandbox, sqlx::Error> {
    let size = |column: &'static str| -> Result<u32, sqlx::Error> {
        u32::try_from(row.try_get::<i32, _>(column)?).map_err(|_| corrupt("sandboxes.size"))
    };
    Ok(Sandbox {
        id: SandboxId::from_uuid(row.try_get("id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        host: row.try_get::<Option<Uuid>, _>("host_id")?.map(HostId::from_uuid),
        template: row.try_get("template")?,
        template_id: row.try_get("template_id")?,
        origin: Origin {
            snapshot: row.try_get("snapshot_id")?,
            default_user: row.try_get("default_user")?,
            default_env: row.try_get::<Json<_>, _>("default_env")?.0,
        },
        state: row.try_get::<&str, _>("state")?.parse().map_err(|_| corrupt("sandboxes.state"))?,
        generation: row.try_get("generation")?,
        desired: match row.try_get::<&str, _>("desired")? {
            "running" => Desired::Running,
            "paused" => Desired::Paused,
            "stopped" => Desired::Stopped,
            _ => return Err(corrupt("sandboxes.desired")),
        },
        vcpus: size("vcpus")?,
        memory_mib: size("memory_mib")?,
        disk_mib: size("disk_mib")?,
        timeout_sec: size("timeout_sec")?,
        traffic: Traffic { auto_resume: row.try_get("auto_resume")?, public_ports: row.try_get("public_ports")? },
        metadata: row.try_get::<Json<_>, _>("metadata")?.0,
        system_metadata: row.try_get::<Json<_>, _>("system_metadata")?.0,
        report_generation: row.try_get("report_generation")?,
        operation: row.try_get("operation")?,
        disk_kept: row.try_get("disk_kept")?,
        capture: match (row.try_get("capture_id")?, row.try_get::<Option<&str>, _>("capture_origin")?) {
            (Some(id), Some(origin)) => Some(Capture { id, from_paused: origin == "paused" }),
            _ => None,
        },
        parent: row.try_get::<Option<Uuid>, _>("parent_id")?.map(SandboxId::from_uuid),
        fork: row.try_get("fork_id")?,
        error: row.try_get("error")?,
        error_code: row.try_get("error_code")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        last_active_at: row.try_get("last_active_at")?,
        updated_at: row.try_get("updated_at")?,
        attempts: size("attempts")?,
        wished_by: match row.try_get::<Option<Json<AuthorJson>>, _>("wished_by")? {
            Some(Json(author)) => Some(author.read().ok_or_else(|| corrupt("sandboxes.wished_by"))?),
            None => None,
        },
    })
}
