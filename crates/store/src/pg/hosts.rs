//! Hosts: who they are, what they can hold, when they were last heard of, and which control plane listens to them.
//!
//! Owner of: every column of hosts. Placement only reads them (under a row lock).

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wrenn_domain::event::EventType;
use wrenn_domain::ids::{EventId, HostId, PLATFORM_TEAM, TeamId};
use wrenn_domain::names::TemplateName;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};

use super::audit::Author;
use super::outbox::{NewEvent, publish};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// A host as the control plane knows it.
#[derive(Debug, Clone)]
pub struct Host {
    pub id: HostId,
    /// Base URL of its agent.
    pub address: String,
    pub status: HostStatus,
    pub last_seen_at: Option<DateTime<Utc>>,
}

/// Standing of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostStatus {
    /// Never heard of.
    Pending,
    /// Answers.
    Online,
    /// Silent for too long.
    Unreachable,
    /// Takes nothing new.
    Draining,
    /// Switched off by an admin.
    Offline,
}

/// Facts a host reports about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub agent_version: String,
    pub vmm: String,
    pub vmm_version: String,
    pub acceleration: String,
    pub cpu_cores: u32,
    pub memory_mib: u64,
    pub disk_total_mib: u64,
    pub disk_free_mib: u64,
    pub images: Vec<HostImage>,
}

/// An image a host holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostImage {
    pub name: TemplateName,
    /// Bytes; 0 when unknown.
    pub size_bytes: u64,
}

impl Store {
    /// The host with this address, made with `fresh` as its id when there is none.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_ensure(&self, address: &str, fresh: HostId) -> Result<HostId, StoreError> {
        self.run("register a host", || async {
            let id: Uuid = sqlx::query_scalar(
                "INSERT INTO hosts (id, address) VALUES ($1, $2)
                 ON CONFLICT (address) DO UPDATE SET address = excluded.address RETURNING id",
            )
            .bind(fresh.uuid())
            .bind(address)
            .fetch_one(&self.pool)
            .await?;
            Ok(HostId::from_uuid(id))
        })
        .await
    }

    /// All hosts, oldest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_list(&self) -> Result<Vec<Host>, StoreError> {
        self.run("list hosts", || async {
            let rows = sqlx::query("SELECT id, address, status, last_seen_at FROM hosts ORDER BY created_at, id")
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(host).collect()
        })
        .await
    }

    /// Becomes or stays the one that listens to a host, for `keep`. False: somebody else does.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_watch(&self, id: HostId, owner: Uuid, keep: Duration) -> Result<bool, StoreError> {
        self.run("lease a host's watch", || async {
            let done = sqlx::query(
                "UPDATE hosts SET watch_owner = $2, watch_until = now() + $3 * interval '1 millisecond'
                 WHERE id = $1 AND (watch_owner = $2 OR watch_until IS NULL OR watch_until < now())",
            )
            .bind(id.uuid())
            .bind(owner)
            .bind(keep.as_millis() as f64)
            .execute(&self.pool)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Gives up listening to all hosts, so that another control plane takes over at once.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_unwatch_all(&self, owner: Uuid) -> Result<(), StoreError> {
        self.run("release host watches", || async {
            sqlx::query("UPDATE hosts SET watch_owner = NULL, watch_until = NULL WHERE watch_owner = $1")
                .bind(owner)
                .execute(&self.pool)
                .await
                .map(|_| ())
        })
        .await
    }

    /// The host answered: it is online, and with `facts` this is what it can hold. Images it holds that nobody
    /// registered become templates of the platform.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_seen(&self, id: HostId, facts: Option<&HostFacts>) -> Result<(), StoreError> {
        self.run_seen("note a host's answer", || async {
            let mut tx = self.pool.begin().await?;
            let back = sqlx::query(
                "UPDATE hosts h SET last_seen_at = now(), updated_at = now(),
                   status = CASE WHEN h.status IN ('pending', 'unreachable') THEN 'online' ELSE h.status END
                 FROM (SELECT id, status FROM hosts WHERE id = $1 FOR UPDATE) was WHERE h.id = was.id
                 RETURNING h.id, h.type, h.team_id, h.last_seen_at, gen_random_uuid() AS event,
                   was.status = 'unreachable' AS is_news",
            )
            .bind(id.uuid())
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(row) = back.filter(|row| row.try_get("is_news").unwrap_or(false)) {
                publish(&mut tx, &[news(&row, EventType::HostUp)?]).await?;
            }
            let Some(facts) = facts else { return tx.commit().await };
            let names: Vec<&str> = facts.images.iter().map(|i| i.name.as_str()).collect();
            let sizes: Vec<i64> = facts.images.iter().map(|i| clamp(i.size_bytes)).collect();
            let ids: Vec<Uuid> = facts.images.iter().map(|i| template_id(i.name.as_str())).collect();
            sqlx::query(
                "UPDATE hosts SET agent_version = $2, vmm = $3, vmm_version = $4, acceleration = $5, cpu_cores = $6, memory_mib = $7,
                   disk_total_mib = $8, disk_free_mib = $9, templates = $10 WHERE id = $1",
            )
            .bind(id.uuid())
            .bind(&facts.agent_version)
            .bind(&facts.vmm)
            .bind(&facts.vmm_version)
            .bind(&facts.acceleration)
            .bind(i32::try_from(facts.cpu_cores).unwrap_or(i32::MAX))
            .bind(clamp(facts.memory_mib))
            .bind(clamp(facts.disk_total_mib))
            .bind(clamp(facts.disk_free_mib))
            .bind(&names)
            .execute(&mut *tx)
            .await?;
            // Hosts of the platform alone say what everybody is offered, and none of them changes what another holds as well.
            sqlx::query(
                "INSERT INTO templates (id, team_id, name, size_bytes, protected)
                 SELECT id, $1, name, size, true FROM unnest($2::uuid[], $3::text[], $4::bigint[]) AS i(id, name, size)
                 WHERE EXISTS (SELECT 1 FROM hosts h WHERE h.id = $5 AND h.type = 'regular')
                 ON CONFLICT (team_id, name) WHERE state = 'ready' DO UPDATE SET size_bytes = excluded.size_bytes
                 WHERE excluded.size_bytes > 0 AND templates.size_bytes <> excluded.size_bytes
                   AND NOT EXISTS (SELECT 1 FROM hosts h WHERE h.id <> $5 AND excluded.name = ANY (h.templates))",
            )
            .bind(PLATFORM_TEAM.uuid())
            .bind(&ids)
            .bind(&names)
            .bind(&sizes)
            .bind(id.uuid())
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    /// Hosts silent for longer than `silence` become unreachable, and their sandboxes missing. Answers how many
    /// sandboxes that touched. Also heals a kill between the two steps, since the second looks at the host's status.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn host_mark_silent(&self, silence: Duration) -> Result<u64, StoreError> {
        let losable: Vec<&str> = SandboxState::ALL
            .iter()
            .filter(|s| s.after(SandboxEvent::HostLost) == Ok(SandboxState::Missing) && **s != SandboxState::Missing)
            .map(|s| s.as_str())
            .collect();
        self.run_seen("mark silent hosts", || async {
            let mut tx = self.pool.begin().await?;
            let fallen = sqlx::query(
                "UPDATE hosts SET status = 'unreachable', updated_at = now()
                 WHERE status = 'online' AND last_seen_at < now() - $1 * interval '1 millisecond'
                 RETURNING id, type, team_id, last_seen_at, gen_random_uuid() AS event",
            )
            .bind(silence.as_millis() as f64)
            .fetch_all(&mut *tx)
            .await?;
            let events: Vec<NewEvent> =
                fallen.iter().map(|row| news(row, EventType::HostDown)).collect::<Result<_, _>>()?;
            publish(&mut tx, &events).await?;
            let done = sqlx::query(
                "UPDATE sandboxes s SET state = 'missing', generation = s.generation + 1, updated_at = now(),
                   lease_owner = NULL, lease_until = NULL, moved_at = NULL
                 FROM hosts h WHERE h.id = s.host_id AND h.status = 'unreachable' AND s.state = ANY($1)",
            )
            .bind(&losable)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }
}

/// Told to the team a host belongs to. What happens to a shared host is told to the platform's admins only: whose sandboxes are on
/// it is nobody else's business, and teams hear of their own sandboxes by those's own changes.
fn news(row: &PgRow, kind: EventType) -> Result<NewEvent, sqlx::Error> {
    let team = match row.try_get("type")? {
        "byoc" => row.try_get::<Option<Uuid>, _>("team_id")?.map(TeamId::from_uuid),
        _ => None,
    };
    let heard: Option<DateTime<Utc>> = row.try_get("last_seen_at")?;
    let heard = heard.map(|at| ("last_seen_at".to_owned(), at.to_rfc3339_opts(SecondsFormat::Secs, true)));
    Ok(NewEvent {
        id: EventId::from_uuid(row.try_get("event")?),
        kind,
        outcome: None,
        team: team.unwrap_or(PLATFORM_TEAM),
        author: Author::system(),
        resource_type: "host",
        resource_id: HostId::from_uuid(row.try_get("id")?).to_string(),
        metadata: heard.filter(|_| kind == EventType::HostDown).into_iter().collect(),
        error: None,
    })
}

fn host(row: &PgRow) -> Result<Host, sqlx::Error> {
    Ok(Host {
        id: HostId::from_uuid(row.try_get("id")?),
        address: row.try_get("address")?,
        status: match row.try_get::<&str, _>("status")? {
            "pending" => HostStatus::Pending,
            "online" => HostStatus::Online,
            "unreachable" => HostStatus::Unreachable,
            "draining" => HostStatus::Draining,
            "offline" => HostStatus::Offline,
            _ => return Err(corrupt("hosts.status")),
        },
        last_seen_at: row.try_get("last_seen_at")?,
    })
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Platform templates found on hosts get an id made from their name: two control planes that see one at the same
/// moment make the same row.
fn template_id(name: &str) -> Uuid {
    if name == "minimal" {
        return Uuid::nil();
    }
    let mut bytes = [0u8; 16];
    let mut state: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in name.bytes() {
        state = (state ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    bytes.copy_from_slice(&state.to_be_bytes());
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
