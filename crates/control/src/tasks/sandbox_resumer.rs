//! Makes resuming sandboxes run: asks their host, again until it has done it or says that it cannot. A resume that does not work
//! leaves the sandbox as it was, paused or crashed with its disk.

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
    work::run(ctx, Work::Resume, drive).await;
}

async fn drive(ctx: Arc<Context>, placed: PlacedSandbox) {
    let id = placed.sandbox.id;
    ctx.faults.reach(FaultPoint::ResumeClaimed).await;
    let asked = ask(&ctx, &placed).await;
    ctx.faults.reach(FaultPoint::ResumeCalled).await;
    let next = match asked {
        Ok(report) => taken(&ctx, placed.sandbox, &report).await,
        Err(error) => refused(&ctx, &placed.sandbox, error).await,
    };
    ctx.faults.reach(FaultPoint::ResumeNoted).await;
    settle(&ctx, Work::Resume, id, next).await;
}

async fn ask(ctx: &Context, placed: &PlacedSandbox) -> Result<HostReport, FleetError> {
    let Some(address) = &placed.host_address else {
        return Err(FleetError::Nonsense("the sandbox has no host".to_owned()));
    };
    ctx.fleet.host(address)?.resume_sandbox(&placed.sandbox).await
}

async fn taken(ctx: &Context, sandbox: Sandbox, report: &HostReport) -> Result<Next, StoreError> {
    let row = reports::take(ctx, sandbox, report).await?;
    Ok(match row {
        Some(row) if row.state == SandboxState::Resuming => Next::Recheck,
        _ => Next::Over,
    })
}

async fn refused(ctx: &Context, sandbox: &Sandbox, error: FleetError) -> Result<Next, StoreError> {
    let id = sandbox.id;
    let why = match &error {
        // Away, or it lost the sandbox: then the comparison of host and rows finds that out.
        error if error.is_away() || matches!(error, FleetError::Answered { code: ErrorCode::NotFound, .. }) => {
            tracing::warn!(sandbox = %id, error = %chain(error), "{id} cannot be resumed now; trying again");
            return Ok(Next::Retry(sandbox.attempts));
        }
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => {
            "the host has no room to run it now; try again later"
        }
        _ => "the host refused; try again",
    };
    tracing::warn!(sandbox = %id, error = %chain(&error), "{id} cannot be resumed and stays as it was");
    let error = Some((format!("the resume did not work: {why}"), "resume_failed".to_owned()));
    let event = if sandbox.disk_kept { SandboxEvent::Crashed } else { SandboxEvent::ResumeFailed };
    let noted = reports::take_event(ctx, id, sandbox, event, error).await?;
    Ok(if noted { Next::Over } else { Next::Recheck })
}
