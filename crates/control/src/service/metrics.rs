//! What a sandbox used lately, as its host measured it.

use connectrpc::ErrorCode;
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::DISK_USED_WAIT_MAX;
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{PlacedSandbox, Sandbox};

use super::lookup;
use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
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
    ///
    /// # Errors
    /// When the text is none of the ranges.
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::M10) };
        Self::ALL
            .into_iter()
            .find(|range| range.as_str() == text)
            .ok_or_else(|| Failure::invalid("range is one of 5m, 10m, 1h, 2h, 6h, 12h and 24h"))
    }
}

/// A sandbox's points within a range, oldest first. Of one that is over nothing is kept.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn get(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    range: MetricsRange,
) -> Result<Vec<MetricPoint>, ServiceError> {
    let PlacedSandbox { sandbox, host_address } =
        ctx.store.sandbox_get_placed(actor.team, id).await?.ok_or_else(|| lookup::not_found(id))?;
    if matches!(sandbox.state, SandboxState::Stopped | SandboxState::Stopping)
        || (sandbox.state == SandboxState::Error && !sandbox.disk_kept)
    {
        return Err(Failure::not_found(format!("the capsule {id} is over; its metrics are gone with it")).into());
    }
    let Some(address) = host_address else { return Err(lookup::host_away().into()) };
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

/// MiB of its disk a sandbox used a moment ago; none when its host does not say so at once.
pub async fn disk_used_mib(ctx: &Context, sandbox: &Sandbox, host_address: Option<&str>) -> Option<u32> {
    if !matches!(sandbox.state, SandboxState::Running | SandboxState::Paused) {
        return None;
    }
    if let Some(known) = ctx.disk_usage.get_or_begin(sandbox.id) {
        return known;
    }
    let used = ask_disk_used(ctx, sandbox.id, host_address?).await;
    ctx.disk_usage.put(sandbox.id, used);
    used
}

async fn ask_disk_used(ctx: &Context, id: SandboxId, address: &str) -> Option<u32> {
    let host = ctx.fleet.host(address).ok()?;
    // One second back: only what the disk uses is wanted.
    let answer = tokio::time::timeout(DISK_USED_WAIT_MAX, host.metrics(id, 1)).await.ok()?.ok()?;
    u32::try_from(answer.disk_bytes.div_ceil(1 << 20)).ok().filter(|mib| *mib > 0)
}
