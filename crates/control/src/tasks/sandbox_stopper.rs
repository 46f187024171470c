//! Makes stopping sandboxes end: asks their host until it says that nothing is left. Never gives up.

use std::sync::Arc;

use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{PlacedSandbox, Work};

use super::work::{self, Next, settle};
use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::fleet::HostPhase;
use crate::service::reports;

pub(super) async fn run(ctx: Arc<Context>) {
    work::run(ctx, Work::Stop, drive).await;
}

async fn drive(ctx: Arc<Context>, placed: PlacedSandbox) {
    let id = placed.sandbox.id;
    ctx.faults.reach(FaultPoint::StopClaimed).await;
    let next = step(&ctx, placed).await;
    settle(&ctx, Work::Stop, id, next).await;
}

async fn step(ctx: &Context, placed: PlacedSandbox) -> Result<Next, StoreError> {
    let sandbox = placed.sandbox;
    let id = sandbox.id;
    let Some(address) = placed.host_address else {
        reports::take_event(ctx, id, &sandbox, SandboxEvent::Gone, None).await?;
        return Ok(Next::Over);
    };
    let asked = match ctx.fleet.host(&address) {
        Ok(host) => host.delete_sandbox(id).await,
        Err(error) => Err(error),
    };
    ctx.faults.reach(FaultPoint::StopCalled).await;
    let next = match asked {
        Ok(report) if report.phase == HostPhase::Gone => {
            // An answer to our own question needs no newer generation: an id the host never knew has none.
            let gone = reports::take_event(ctx, id, &sandbox, SandboxEvent::Gone, None).await?;
            if gone { Next::Over } else { Next::Recheck }
        }
        Ok(report) => {
            let row = reports::take(ctx, sandbox.clone(), &report).await?;
            if row.is_some_and(|row| row.state == SandboxState::Stopping) { Next::Recheck } else { Next::Over }
        }
        Err(error) => {
            tracing::warn!(sandbox = %id, error = %chain(&error), "cannot end {id} on its host; trying again");
            Next::Retry(sandbox.attempts)
        }
    };
    ctx.faults.reach(FaultPoint::StopNoted).await;
    Ok(next)
}
