//! What a sandbox used lately, as its host measured it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use connectrpc::ErrorCode;
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{DISK_USED_AGE_MAX, DISK_USED_ENTRIES_MAX, DISK_USED_WAIT_MAX};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{PlacedSandbox, Sandbox};

use super::{Actor, ServiceError, guest_error, sandboxes};
use crate::context::Context;
use crate::fleet::{FleetError, MetricPoint};

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsRange {
    M5,
    M10,
    H1,
    H2,
    H6,
    H12,
    H24,
}

impl MetricsRange {
    const ALL: [Self; 7] = [Self::M5, Self::M10, Self::H1, Self::H2, Self::H6, Self::H12, Self::H24];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::M5 => "5m",
            Self::M10 => "10m",
            Self::H1 => "1h",
            Self::H2 => "2h",
            Self::H6 => "6h",
            Self::H12 => "12h",
            Self::H24 => "24h",
        }
    }

    fn secs(self) -> u32 {
        match self {
            Self::M5 => 300,
            Self::M10 => 600,
            Self::H1 => 3600,
            Self::H2 => 7200,
            Self::H6 => 21_600,
            Self::H12 => 43_200,
            Self::H24 => 86_400,
        }
    }

    /// Reads the word of the API; ten minutes when there is none.
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::M10) };
        Self::ALL
            .into_iter()
            .find(|range| range.as_str() == text)
            .ok_or_else(|| Failure::invalid("range is one of 5m, 10m, 1h, 2h, 6h, 12h and 24h"))
    }
}

/// A sandbox's points within a range, oldest first. Of one that is over nothing is kept.
pub async fn get(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    range: MetricsRange,
) -> Result<Vec<MetricPoint>, ServiceError> {
    let PlacedSandbox { sandbox, host_address } =
        ctx.store.sandbox_get_placed(actor.team, id).await?.ok_or_else(|| sandboxes::not_found(id))?;
    if matches!(sandbox.state, SandboxState::Stopped | SandboxState::Stopping)
        || (sandbox.state == SandboxState::Error && !sandbox.disk_kept)
    {
        return Err(Failure::not_found(format!("the capsule {id} is over; its metrics are gone with it")).into());
    }
    let Some(address) = host_address else { return Err(sandboxes::host_away().into()) };
    let host = ctx.fleet.host(&address).map_err(guest_error)?;
    match host.metrics(id, range.secs()).await {
        Ok(answer) => Ok(answer.points),
        // Not there yet.
        Err(FleetError::Answered { code: ErrorCode::NotFound, .. }) if sandbox.state == SandboxState::Starting => {
            Ok(Vec::new())
        }
        Err(FleetError::Answered { code: ErrorCode::NotFound, .. }) => {
            Err(Failure::not_found(format!("the host of {id} has no metrics of it")).into())
        }
        Err(error) => Err(guest_error(error)),
    }
}

/// What disks used when their hosts were asked last. Many looks at one sandbox cause one question.
#[derive(Default)]
pub struct DiskUses(Mutex<HashMap<SandboxId, (Option<u32>, Instant)>>);

impl DiskUses {
    /// The remembered answer; else the caller is to ask, and others are answered what was known before.
    fn known(&self, id: SandboxId) -> Option<Option<u32>> {
        let mut uses = self.0.lock().expect("no holder of this lock can panic");
        let before = uses.get(&id).copied();
        if let Some((used, at)) = before
            && at.elapsed() < DISK_USED_AGE_MAX
        {
            return Some(used);
        }
        if uses.len() >= DISK_USED_ENTRIES_MAX {
            uses.clear();
        }
        uses.insert(id, (before.and_then(|(used, _)| used), Instant::now()));
        None
    }

    fn put(&self, id: SandboxId, used: Option<u32>) {
        self.0.lock().expect("no holder of this lock can panic").insert(id, (used, Instant::now()));
    }
}

/// MiB of its disk a sandbox used a moment ago; none when its host does not say so at once.
pub async fn disk_used_mib(ctx: &Context, sandbox: &Sandbox, host_address: Option<&str>) -> Option<u32> {
    if !matches!(sandbox.state, SandboxState::Running | SandboxState::Paused) {
        return None;
    }
    if let Some(known) = ctx.disk_uses.known(sandbox.id) {
        return known;
    }
    let used = ask_disk_used(ctx, sandbox.id, host_address?).await;
    ctx.disk_uses.put(sandbox.id, used);
    used
}

async fn ask_disk_used(ctx: &Context, id: SandboxId, address: &str) -> Option<u32> {
    let host = ctx.fleet.host(address).ok()?;
    // One second back: only what the disk uses is wanted.
    let answer = tokio::time::timeout(DISK_USED_WAIT_MAX, host.metrics(id, 1)).await.ok()?.ok()?;
    u32::try_from(answer.disk_bytes.div_ceil(1 << 20)).ok().filter(|mib| *mib > 0)
}
