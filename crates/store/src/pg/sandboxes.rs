//! Sandboxes: reading them, and the one way to change their state: compare-and-set on the generation.
//!
//! Owner of: every column of sandboxes but the lease ones (leases.rs) and the row's birth (placement.rs).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::{ForkId, HostId, SandboxId, SnapshotId, TeamId, TemplateId};
use wrenn_domain::limits::LIST_CAPSULES_MAX;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sandbox::SandboxState;
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_domain::{ErrorCode, SandboxErrorCode};

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::outbox::{NewEvent, publish};
use super::signals::DUE_CHANNEL;
use crate::error::corrupt;
use crate::{Store, StoreError};

/// State a sandbox's user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    Running,
    Paused,
    Stopped,
}

/// Origin of a sandbox beyond its template's name. Fixed when it is created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The snapshot whose memory it continues; none for an image.
    pub snapshot: Option<SnapshotId>,
    /// Empty: the image's.
    pub default_user: String,
    pub default_env: BTreeMap<String, String>,
}

/// Rights of traffic from outside. Fixed when the sandbox is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Traffic resumes the sandbox when that is paused.
    pub auto_resume: bool,
    /// Traffic may come from anybody who knows the name; else only from callers with a key of the team.
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
    /// The snapshot; also the pending template.
    pub id: SnapshotId,
    /// The sandbox goes back to paused after it, else to running.
    pub from_paused: bool,
}

/// A sandbox as stored.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub id: SandboxId,
    pub team: TeamId,
    pub host: Option<HostId>,
    pub template: TemplateName,
    pub template_id: Option<TemplateId>,
    pub origin: Origin,
    pub state: SandboxState,
    /// Grows with every change of state; what compare-and-set compares.
    pub generation: i64,
    pub desired: Desired,
    pub vcpus: Vcpus,
    pub memory: MemoryMib,
    pub disk: DiskMib,
    pub timeout: TimeoutSec,
    pub traffic: Traffic,
    /// The user's labels.
    pub metadata: BTreeMap<String, String>,
    /// Versions the host reports.
    pub system_metadata: BTreeMap<String, String>,
    /// Newest host report taken.
    pub report_generation: i64,
    /// Names the newest wish for a pause or resume towards the host.
    pub operation: i64,
    /// The host still has the disk of this crashed sandbox. Stays set while that disk is booted again.
    pub disk_kept: bool,
    pub capture: Option<Capture>,
    /// The sandbox it was forked from.
    pub parent: Option<SandboxId>,
    /// The fork that makes it, until its host has confirmed that.
    pub fork: Option<ForkId>,
    pub error: Option<String>,
    pub error_code: Option<SandboxErrorCode>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
    pub attempts: u32,
    /// Author of the last request for a change.
    pub requested_by: Option<Author>,
}

/// A sandbox with the address of its host's agent.
#[derive(Debug, Clone)]
pub struct PlacedSandbox {
    pub sandbox: Sandbox,
    pub host_address: Option<String>,
}

/// A failure fit to be shown, as it is kept with a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxError {
    /// Text for the user that says what to do.
    pub message: String,
    /// None when the host gave no code.
    pub code: Option<SandboxErrorCode>,
}

impl SandboxError {
    /// An error with a text for the user and its code.
    pub fn new(message: impl Into<String>, code: SandboxErrorCode) -> Self {
        Self { message: message.into(), code: Some(code) }
    }

    /// An error that ended the sandbox, or kept it from being made.
    pub fn ended(message: impl Into<String>, code: ErrorCode) -> Self {
        Self::new(message, SandboxErrorCode::Ended(code))
    }
}

/// Fields a change sets; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub state: Option<SandboxState>,
    pub desired: Option<Desired>,
    /// Failure to be kept with the row.
    pub error: Option<SandboxError>,
    /// Forgets an earlier failure.
    pub clear_error: bool,
    pub report: Option<ReportMark>,
    /// This is a new wish for a pause or resume: it gets the new generation as its number.
    pub new_operation: bool,
    pub disk_kept: Option<bool>,
    pub timeout: Option<TimeoutSec>,
    pub capture: Option<Capture>,
    /// Frees the lease, makes the row due at once, and tells every control plane.
    pub due_now: bool,
    /// Author of the change, when somebody asked for it.
    pub requested_by: Option<Author>,
    /// Told if, and only if, the change is made.
    pub events: Vec<NewEvent>,
    /// Written if, and only if, the change is made.
    pub audit: Vec<NewAudit>,
}

/// Content of a host report, fit to be stored.
#[derive(Debug, Clone, Default)]
pub struct ReportMark {
    pub generation: i64,
    pub disk: Option<DiskMib>,
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn sandbox_list(&self, team: TeamId) -> Result<(Vec<Sandbox>, bool), StoreError> {
        self.list_living(Some(team)).await
    }

    /// Sandboxes of a team, or of all, that are not over, newest first, and whether there are more than shown.
    pub(super) async fn list_living(&self, team: Option<TeamId>) -> Result<(Vec<Sandbox>, bool), StoreError> {
        self.run("list sandboxes", || async {
            let rows = sqlx::query(match team {
                Some(_) => {
                    "SELECT * FROM sandboxes WHERE team_id = $1 AND state NOT IN ('stopped', 'error')
                     ORDER BY created_at DESC, id LIMIT $2"
                }
                // Two statements: each has its own plan.
                None => {
                    "SELECT * FROM sandboxes WHERE $1::uuid IS NULL AND state NOT IN ('stopped', 'error')
                     ORDER BY created_at DESC, id LIMIT $2"
                }
            })
            .bind(team.map(TeamId::uuid))
            .bind(LIST_CAPSULES_MAX + 1)
            .fetch_all(&self.pool)
            .await?;
            let more = rows.len() as i64 > LIST_CAPSULES_MAX;
            let shown = rows.iter().take(LIST_CAPSULES_MAX as usize).map(sandbox).collect::<Result<_, _>>()?;
            Ok((shown, more))
        })
        .await
    }

    /// Rows of the given sandboxes, whatever their team and state; unknown ids are left out.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
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
        publish(tx, &change.events).await?;
        note(tx, &change.audit).await?;
    }
    Ok(changed)
}

async fn update_row(tx: &mut PgConnection, id: SandboxId, seen: i64, change: &Change) -> Result<Changed, sqlx::Error> {
    let state = change.state.map(SandboxState::as_str);
    let desired = change.desired.map(Desired::as_str);
    let error = change.error.as_ref().map(|error| error.message.as_str());
    // A failure without a code replaces an earlier one's code by the empty word, which is read as none.
    let error_code = change.error.as_ref().map(|error| error.code.map_or("", SandboxErrorCode::as_str));
    let report = change.report.clone();
    let mark = report.clone().unwrap_or_default();
    let (capture, origin) =
        change.capture.map(|c| (c.id.uuid(), if c.from_paused { "paused" } else { "running" })).unzip();
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
           requested_by = coalesce($22, requested_by), moved_at = $23
         WHERE id = $1 AND generation = $2 RETURNING *)
         SELECT changed.*, CASE WHEN $13 THEN pg_notify($14, $15)::text END AS told FROM changed",
    )
    .bind(id.uuid())
    .bind(seen)
    .bind(state)
    .bind(desired)
    .bind(error)
    .bind(error_code)
    .bind(report.is_some())
    .bind(mark.generation)
    .bind(mark.disk.map(|v| v.get() as i32))
    .bind(mark.started_at)
    .bind(mark.last_active_at)
    .bind(Json(&mark.metadata))
    .bind(change.due_now)
    .bind(DUE_CHANNEL)
    .bind(id.to_string())
    .bind(change.clear_error)
    .bind(change.new_operation)
    .bind(change.disk_kept)
    .bind(change.timeout.map(|v| v.get() as i32))
    .bind(capture)
    .bind(origin)
    .bind(change.requested_by.as_ref().map(|author| Json(AuthorJson::from(author))))
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

/// A code as it stands in a row. Rows of older and newer versions may hold others: they must stay readable.
fn stored_code(text: &str) -> SandboxErrorCode {
    text.parse().unwrap_or_else(|_| {
        tracing::debug!(code = text, "a stored error code is not known and counts as agent_error");
        SandboxErrorCode::Ended(ErrorCode::AgentError)
    })
}

pub(super) fn placed(row: &PgRow) -> Result<PlacedSandbox, sqlx::Error> {
    Ok(PlacedSandbox { sandbox: sandbox(row)?, host_address: row.try_get("address")? })
}

pub(super) fn sandbox(row: &PgRow) -> Result<Sandbox, sqlx::Error> {
    Ok(Sandbox {
        id: SandboxId::from_uuid(row.try_get("id")?),
        team: TeamId::from_uuid(row.try_get("team_id")?),
        host: row.try_get::<Option<Uuid>, _>("host_id")?.map(HostId::from_uuid),
        template: row.try_get::<&str, _>("template")?.parse().map_err(|_| corrupt("sandboxes.template"))?,
        template_id: row.try_get::<Option<Uuid>, _>("template_id")?.map(TemplateId::from_uuid),
        origin: Origin {
            snapshot: row.try_get::<Option<Uuid>, _>("snapshot_id")?.map(SnapshotId::from_uuid),
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
        vcpus: Vcpus::from_stored(row.try_get("vcpus")?).ok_or_else(|| corrupt("sandboxes.vcpus"))?,
        memory: MemoryMib::from_stored(row.try_get("memory_mib")?).ok_or_else(|| corrupt("sandboxes.memory_mib"))?,
        disk: DiskMib::from_stored(row.try_get("disk_mib")?).ok_or_else(|| corrupt("sandboxes.disk_mib"))?,
        timeout: TimeoutSec::from_stored(row.try_get("timeout_sec")?)
            .ok_or_else(|| corrupt("sandboxes.timeout_sec"))?,
        traffic: Traffic { auto_resume: row.try_get("auto_resume")?, public_ports: row.try_get("public_ports")? },
        metadata: row.try_get::<Json<_>, _>("metadata")?.0,
        system_metadata: row.try_get::<Json<_>, _>("system_metadata")?.0,
        report_generation: row.try_get("report_generation")?,
        operation: row.try_get("operation")?,
        disk_kept: row.try_get("disk_kept")?,
        capture: match (row.try_get("capture_id")?, row.try_get::<Option<&str>, _>("capture_origin")?) {
            (Some(id), Some(origin)) => {
                Some(Capture { id: SnapshotId::from_uuid(id), from_paused: origin == "paused" })
            }
            _ => None,
        },
        parent: row.try_get::<Option<Uuid>, _>("parent_id")?.map(SandboxId::from_uuid),
        fork: row.try_get::<Option<Uuid>, _>("fork_id")?.map(ForkId::from_uuid),
        error: row.try_get("error")?,
        error_code: match row.try_get::<Option<&str>, _>("error_code")? {
            None | Some("") => None,
            Some(code) => Some(stored_code(code)),
        },
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        last_active_at: row.try_get("last_active_at")?,
        updated_at: row.try_get("updated_at")?,
        attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).map_err(|_| corrupt("sandboxes.attempts"))?,
        requested_by: match row.try_get::<Option<Json<AuthorJson>>, _>("requested_by")? {
            Some(Json(author)) => Some(author.read().ok_or_else(|| corrupt("sandboxes.requested_by"))?),
            None => None,
        },
    })
}
