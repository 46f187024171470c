//! Makes starting sandboxes real: asks their host, again until it takes them or the wish is given up.
//!
//! The call is idempotent by sandbox id, so a step that was killed is simply done again.

use std::sync::Arc;

use connectrpc::ErrorCode;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{PlacedSandbox, Sandbox, Work};

use super::work::{self, Next, settle};
use crate::causes::chain;
use crate::context::Context;
use crate::fault::FaultPoint;
use crate::fleet::{FleetError, HostReport};
use crate::service::reports;

pub(super) async fn run(ctx: Arc<Context>) {
    work::run(ctx, Work::Start, drive).await;
}

async fn drive(ctx: Arc<Context>, placed: PlacedSandbox) {
    let id = placed.sandbox.id;
    ctx.faults.reach(FaultPoint::StartClaimed).await;
    let asked = ask(&ctx, &placed).await;
    ctx.faults.reach(FaultPoint::StartCalled).await;
    let noted = match asked {
        Ok(report) => taken(&ctx, placed.sandbox, &report).await,
        Err(error) => refused(&ctx, &placed.sandbox, error).await,
    };
    ctx.faults.reach(FaultPoint::StartNoted).await;
    settle(&ctx, Work::Start, id, noted).await;
}

async fn ask(ctx: &Context, placed: &PlacedSandbox) -> Result<HostReport, FleetError> {
    let Some(address) = &placed.host_address else {
        return Err(FleetError::Nonsense("the sandbox has no host".to_owned()));
    };
    // The lease outlasts this, so no two control planes ask at once; and if they did, the host answers both the same.
    ctx.fleet.host(address)?.create_sandbox(&placed.sandbox).await
}

async fn taken(ctx: &Context, sandbox: Sandbox, report: &HostReport) -> Result<Next, StoreError> {
    let row = reports::take(ctx, sandbox, report).await?;
    Ok(match row {
        Some(row) if row.state == SandboxState::Starting => Next::Recheck,
        _ => Next::Over,
    })
}

async fn refused(ctx: &Context, sandbox: &Sandbox, error: FleetError) -> Result<Next, StoreError> {
    let id = sandbox.id;
    let age = (chrono::Utc::now() - sandbox.created_at).to_std().unwrap_or_default();
    let (code, text) = match &error {
        error if error.is_away() && age < ctx.tuning.create_give_up => {
            tracing::warn!(sandbox = %id, error = %chain(error), "the host of {id} cannot be reached; trying again");
            return Ok(Next::Retry(sandbox.attempts));
        }
        error if error.is_away() => ("host_unavailable", "the host could not be reached; create the capsule again"),
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => (
            "no_hosts_available",
            "the host had no room left, in memory or on its disk; delete capsules, free some space on it, or ask for less",
        ),
        FleetError::Answered { code: ErrorCode::NotFound, .. } => {
            ("not_found", "the host no longer holds the template; try again or use another one")
        }
        FleetError::Answered { code: ErrorCode::InvalidArgument, .. } => {
            ("invalid_request", "the host refused the sizes or the template; try other ones")
        }
        // Deleted there before it was created: the delete in the database will say so too.
        FleetError::Answered { code: ErrorCode::FailedPrecondition, .. } => {
            ("conflict", "the capsule was deleted while it was being created")
        }
        _ => ("agent_error", "the host could not make the capsule; try again"),
    };
    tracing::warn!(sandbox = %id, code, error = %chain(&error), "{id} cannot be made");
    let error = Some((text.to_owned(), code.to_owned()));
    reports::take_event(ctx, id, sandbox, SandboxEvent::Failed, error).await?;
    Ok(Next::Over)
}
