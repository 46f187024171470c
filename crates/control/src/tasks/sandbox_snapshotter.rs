//! Makes pending snapshots: has the host write each, then shows the template and lets the sandbox go back to where it was.
//!
//! The job outlives its sandbox: a snapshot that the host has when the sandbox is deleted meanwhile is kept, one that it has not
//! frees its name. The call is repeatable, so a step that was killed is simply done again.

use std::sync::Arc;

use connectrpc::ErrorCode;
use wrenn_domain::SandboxErrorCode;
use wrenn_domain::ids::EventId;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{Captured, Change, Changed, Job, JobKind, Outcome, Sandbox, SandboxError, SnapshotNews};

use super::work::{self, Next, renew_while, settle};
use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::fleet::FleetError;
use crate::random;

pub(super) async fn run(ctx: Arc<Context>) {
    work::run(ctx, JobKind::Capture, drive).await;
}

async fn drive(ctx: Arc<Context>, job: Job) {
    ctx.faults.reach(FaultPoint::CaptureClaimed).await;
    let Some(asked) = renew_while(&ctx, JobKind::Capture, job.id, ask(&ctx, &job)).await else { return };
    ctx.faults.reach(FaultPoint::CaptureCalled).await;
    let next = match asked {
        Ok(captured) => conclude(&ctx, &job, Outcome::Done(captured), None).await,
        Err(error) => refused(&ctx, &job, error).await,
    };
    ctx.faults.reach(FaultPoint::CaptureNoted).await;
    settle(&ctx, JobKind::Capture, job.id, next).await;
}

async fn ask(ctx: &Context, job: &Job) -> Result<Captured, FleetError> {
    let Some(sandbox) = job.sandbox else {
        return Err(FleetError::Nonsense("the snapshot has no source".to_owned()));
    };
    ctx.fleet.host(&job.host_address)?.snapshot_sandbox(sandbox, job.id.snapshot()).await
}

async fn refused(ctx: &Context, job: &Job, error: FleetError) -> Result<Next, StoreError> {
    let why = match &error {
        error if error.is_away() => {
            tracing::warn!(snapshot = %job.id, error = %chain(error), "the host of the snapshot {} cannot be reached; trying again", job.id);
            return Ok(Next::Retry(job.attempts));
        }
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => {
            "the host has no room for it; delete something and try again"
        }
        FleetError::Answered { code: ErrorCode::NotFound | ErrorCode::FailedPrecondition, .. } => {
            "the capsule was neither running nor paused on its host any more"
        }
        _ => "the host could not write it; try again",
    };
    tracing::warn!(snapshot = %job.id, error = %chain(&error), "the snapshot {} cannot be made", job.id);
    let error = Some(SandboxError::new(format!("the snapshot did not work: {why}"), SandboxErrorCode::SnapshotFailed));
    conclude(ctx, job, Outcome::Failed, error).await
}

/// Writes the outcome together with what it means for the sandbox.
async fn conclude(ctx: &Context, job: &Job, outcome: Outcome, error: Option<SandboxError>) -> Result<Next, StoreError> {
    let news =
        SnapshotNews { id: EventId::from_uuid(random::id()), error: error.as_ref().map(|error| error.message.clone()) };
    let mut source = match job.sandbox {
        Some(id) => ctx.store.sandbox_list_by_id(&[id]).await?.pop(),
        None => None,
    };
    loop {
        let back = source.as_ref().and_then(|row| way_back(row, job, &error));
        match ctx.store.snapshot_settle(job.id.snapshot(), outcome, &news, back).await? {
            Changed::Applied(now) => {
                ctx.outbox.notify_one();
                tracing::info!(sandbox = %now.id, snapshot = %job.id, ?outcome, now = %now.state, "{} is captured or not, and {}", now.id, now.state);
                return Ok(Next::Over);
            }
            Changed::Gone => {
                ctx.outbox.notify_one();
                return Ok(Next::Over);
            }
            // Every turn means that somebody else moved the row on; its generation only grows.
            Changed::Stale(now) => source = Some(*now),
        }
    }
}

/// How the sandbox goes back, if it is still this snapshot's.
fn way_back(
    row: &Sandbox,
    job: &Job,
    error: &Option<SandboxError>,
) -> Option<(wrenn_domain::ids::SandboxId, i64, Change)> {
    let capture =
        row.capture.filter(|capture| capture.id == job.id.snapshot() && row.state == SandboxState::Snapshotting)?;
    let event = if capture.from_paused { SandboxEvent::SnapshotDonePaused } else { SandboxEvent::SnapshotDoneRunning };
    let next = row.state.after(event).ok()?;
    Some((row.id, row.generation, Change { state: Some(next), error: error.clone(), ..Change::default() }))
}
