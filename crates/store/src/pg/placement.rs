//! Giving a new sandbox a place: what hosts carry, and the insert that reserves in the same transaction.
//!
//! Owner of: the birth of a sandboxes row. The host's row is locked while its load is counted, so that two creates
//! can never both take the last room.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;
use wrenn_domain::ids::{HostId, KeyId, SandboxId, SnapshotId, TeamId, TemplateId, UserId};
use wrenn_domain::names::TemplateName;
use wrenn_domain::quota::Usage;
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::quota::{Judged, Quota, QuotaRefusal, Unlimited, judge};
use super::sandboxes::sandbox;
use super::{Origin, Sandbox, Traffic};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// A host that can take sandboxes, and what it carries now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLoad {
    pub host: HostId,
    pub address: String,
    pub cpu_cores: u32,
    pub memory_mib: u64,
    pub disk_total_mib: u64,
    pub disk_free_mib: u64,
    /// Images it holds.
    pub templates: Vec<TemplateName>,
    /// Sandboxes that are not over.
    pub sandboxes: u64,
    /// vCPUs promised.
    pub vcpus: u64,
    /// MiB promised.
    pub memory_promised_mib: u64,
    /// MiB of disk of all sandboxes that are not over, paused ones included.
    pub disk_promised_mib: u64,
    /// The host's last answer is older than 45 s, which is longer than any poll of it lasts: it may be gone.
    pub is_overdue: bool,
}

/// A sandbox to be made.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    pub id: SandboxId,
    pub team: TeamId,
    /// Key it was asked with.
    pub key: Option<KeyId>,
    /// Person it was asked by.
    pub user: Option<UserId>,
    /// Author of what is told of its creation.
    pub author: Author,
    pub audit: Vec<NewAudit>,
    pub template: TemplateName,
    pub template_id: TemplateId,
    pub origin: Origin,
    pub vcpus: Vcpus,
    pub memory: MemoryMib,
    pub disk: DiskMib,
    pub timeout: TimeoutSec,
    pub metadata: BTreeMap<String, String>,
    pub traffic: Traffic,
}

/// How a placement ended.
#[derive(Debug, Clone)]
pub enum Placed {
    /// The row stands, in state starting, leased to the caller.
    Here(Box<Sandbox>),
    /// The host has no room any more, or is no longer online: choose again.
    Full,
    /// The team may not use as much.
    Refused(QuotaRefusal),
    /// The team was deleted.
    TeamGone,
    /// The template was deleted.
    TemplateGone,
}

/// Hosts that fulfil a condition, with what they carry. A paused sandbox holds a place and its disk, but neither vCPUs nor
/// memory; every other one that is not over holds all of them, whatever it is on its way to.
macro_rules! load_where {
    ($condition:literal) => {
        concat!(
            "SELECT h.id, h.address, h.cpu_cores, h.memory_mib, h.disk_total_mib, h.disk_free_mib, h.templates,
               count(s.id) AS sandboxes,
               coalesce(sum(s.disk_mib), 0)::bigint AS disk_promised_mib,
               coalesce(sum(s.vcpus) FILTER (WHERE s.state <> 'paused'), 0)::bigint AS vcpus,
               coalesce(sum(s.memory_mib) FILTER (WHERE s.state <> 'paused'), 0)::bigint AS memory_promised_mib,
               h.last_seen_at IS NULL OR h.last_seen_at < now() - interval '45 seconds' AS is_overdue
             FROM hosts h LEFT JOIN sandboxes s ON s.host_id = h.id AND s.state NOT IN ('stopped', 'error')
             WHERE ",
            $condition,
            " GROUP BY h.id ORDER BY h.created_at, h.id"
        )
    };
}
pub(super) use load_where;

const LOAD: &str = load_where!("h.status = 'online' AND h.type = 'regular' AND ($1::uuid IS NULL OR h.id = $1)");

impl Store {
    /// Online hosts with what they carry, oldest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_loads(&self) -> Result<Vec<HostLoad>, StoreError> {
        self.run("read the load of hosts", || async {
            let rows = sqlx::query(LOAD).bind(None::<Uuid>).fetch_all(&self.pool).await?;
            rows.iter().map(load).collect()
        })
        .await
    }

    /// [`Store::sandbox_insert_within`] for a team without bounds.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn sandbox_insert(
        &self,
        new: &NewSandbox,
        host: HostId,
        fits: impl Fn(&HostLoad) -> bool,
        owner: Uuid,
        keep: Duration,
    ) -> Result<Placed, StoreError> {
        self.sandbox_insert_within(new, host, fits, owner, keep, &Unlimited).await
    }

    /// Writes a new sandbox onto a host if `fits` still says so under the host's lock. The row is leased to `owner` for `keep`: the
    /// caller goes on with it at once. Inserting an id that is there already answers the row there is. The team's bounds are
    /// judged and used up in the same transaction.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn sandbox_insert_within(
        &self,
        new: &NewSandbox,
        host: HostId,
        fits: impl Fn(&HostLoad) -> bool,
        owner: Uuid,
        keep: Duration,
        quota: &dyn Quota,
    ) -> Result<Placed, StoreError> {
        let fits = &fits;
        self.run_seen("place a sandbox", || async move {
            let mut tx = self.pool.begin().await?;
            // The team before the host, always in this order.
            let more = Usage {
                sandboxes: 1,
                kept: 1,
                vcpus: u64::from(new.vcpus.get()),
                memory_mib: u64::from(new.memory.get()),
            };
            let judged = judge(&mut tx, new.team, more, quota).await?;
            sqlx::query("SELECT id FROM hosts WHERE id = $1 FOR UPDATE").bind(host.uuid()).execute(&mut *tx).await?;
            let known = sqlx::query("SELECT * FROM sandboxes WHERE id = $1")
                .bind(new.id.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(row) = known {
                return Ok(Placed::Here(Box::new(sandbox(&row)?)));
            }
            match judged {
                Judged::Free => {}
                Judged::TeamGone => return Ok(Placed::TeamGone),
                Judged::Refused(refusal) => return Ok(Placed::Refused(refusal)),
            }
            let row = sqlx::query(LOAD).bind(host.uuid()).fetch_optional(&mut *tx).await?;
            match row.as_ref().map(load).transpose()? {
                Some(load) if fits(&load) => {}
                _ => return Ok(Placed::Full),
            }
            // Held until this is committed: a delete that comes now sees the row, and the files stay until it is over its start.
            let template = sqlx::query("SELECT 1 FROM templates WHERE id = $1 AND state = 'ready' FOR KEY SHARE")
                .bind(new.template_id.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            if template.is_none() {
                return Ok(Placed::TemplateGone);
            }
            let row = insert(new, host, owner, keep).fetch_one(&mut *tx).await?;
            note(&mut tx, &new.audit).await?;
            tx.commit().await?;
            Ok(Placed::Here(Box::new(sandbox(&row)?)))
        })
        .await
    }
}

fn insert(
    new: &NewSandbox,
    host: HostId,
    owner: Uuid,
    keep: Duration,
) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(
        "INSERT INTO sandboxes (id, team_id, host_id, template, template_id, state, desired, vcpus, memory_mib,
           disk_mib, timeout_sec, metadata, created_by_key, lease_owner, lease_until, snapshot_id, default_user, default_env,
           created_by_user, requested_by, auto_resume, public_ports)
         VALUES ($1, $2, $3, $4, $5, 'starting', 'running', $6, $7, $8, $9, $10, $11, $12,
           now() + $13 * interval '1 millisecond', $14, $15, $16, $17, $18, $19, $20) RETURNING *",
    )
    .bind(new.id.uuid())
    .bind(new.team.uuid())
    .bind(host.uuid())
    .bind(new.template.as_str().to_owned())
    .bind(new.template_id.uuid())
    .bind(new.vcpus.get() as i32)
    .bind(new.memory.get() as i32)
    .bind(new.disk.get() as i32)
    .bind(new.timeout.get() as i32)
    .bind(Json(new.metadata.clone()))
    .bind(new.key.map(KeyId::uuid))
    .bind(owner)
    .bind(keep.as_millis() as f64)
    .bind(new.origin.snapshot.map(SnapshotId::uuid))
    .bind(new.origin.default_user.clone())
    .bind(Json(new.origin.default_env.clone()))
    .bind(new.user.map(UserId::uuid))
    .bind(Json(AuthorJson::from(&new.author)))
    .bind(new.traffic.auto_resume)
    .bind(new.traffic.public_ports)
}

pub(super) fn load(row: &PgRow) -> Result<HostLoad, sqlx::Error> {
    let count = |column: &'static str| -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
    };
    Ok(HostLoad {
        host: HostId::from_uuid(row.try_get("id")?),
        address: row.try_get("address")?,
        cpu_cores: u32::try_from(row.try_get::<i32, _>("cpu_cores")?).unwrap_or(0),
        memory_mib: count("memory_mib")?,
        disk_total_mib: count("disk_total_mib")?,
        disk_free_mib: count("disk_free_mib")?,
        templates: names(row)?,
        sandboxes: count("sandboxes")?,
        vcpus: count("vcpus")?,
        memory_promised_mib: count("memory_promised_mib")?,
        disk_promised_mib: count("disk_promised_mib")?,
        is_overdue: row.try_get("is_overdue")?,
    })
}

/// Names of the images a host holds. They were judged when the host reported them.
fn names(row: &PgRow) -> Result<Vec<TemplateName>, sqlx::Error> {
    let names: Vec<String> = row.try_get("templates")?;
    names.iter().map(|name| name.parse().map_err(|_| corrupt("hosts.templates"))).collect()
}
