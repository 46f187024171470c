//! Makes pausing sandboxes paused: asks their host, again until it has done it or says that it cannot. A pause that does not work
//! leaves the sandbox running; nothing here ever ends one.

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
    work::run(ctx, Work::Pause, drive).await;
}

async fn drive(ctx: Arc<Context>, placed: PlacedSandbox) {
    let id = placed.sandbox.id;
    ctx.faults.reach(FaultPoint::PauseClaimed).await;
    let asked = ask(&ctx, &placed).await;
    ctx.faults.reach(FaultPoint::PauseCalled).await;
    let next = match asked {
        Ok(report) => taken(&ctx, placed.sandbox, &report).await,
        Err(error) => refused(&ctx, &placed.sandbox, error).await,
    };
    ctx.faults.reach(FaultPoint::PauseNoted).await;
    settle(&ctx, Work::Pause, id, next).await;
}

async fn ask(ctx: &Context, placed: &PlacedSandbox) -> Result<HostReport, FleetError> {
    let Some(address) = &placed.host_address else {
        return Err(FleetError::Nonsense("the sandbox has no host".to_owned()));
    };
    ctx.fleet.host(address)?.pause_sandbox(&placed.sandbox).await
}

async fn taken(ctx: &Context, sandbox: Sandbox, report: &HostReport) -> Result<Next, StoreError> {
    let row = reports::take(ctx, sandbox, report).await?;
    Ok(match row {
        Some(row) if row.state == SandboxState::Pausing => Next::Recheck,
        _ => Next::Over,
    })
}

async fn refused(ctx: &Context, sandbox: &Sandbox, error: FleetError) -> Result<Next, StoreError> {
    let id = sandbox.id;
    let why = match &error {
        // Away, or it lost the sandbox: then the comparison of host and rows finds that out.
        error if error.is_away() || matches!(error, FleetError::Answered { code: ErrorCode::NotFound, .. }) => {
            tracing::warn!(sandbox = %id, error = %chain(error), "{id} cannot be paused now; trying again");
            return Ok(Next::Retry(sandbox.attempts));
        }
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => {
            "the host has no room for its memory; delete something and try again"
        }
        _ => "the host refused; try again",
    };
    tracing::warn!(sandbox = %id, error = %chain(&error), "{id} cannot be paused and runs on");
    let error = Some((format!("the pause did not work: {why}"), "pause_failed".to_owned()));
    let noted = reports::take_event(ctx, id, sandbox, SandboxEvent::PauseFailed, error).await?;
    // Not noted: somebody changed the row meanwhile, and if it is still pausing it is asked for again.
    Ok(if noted { Next::Over } else { Next::Recheck })
}
