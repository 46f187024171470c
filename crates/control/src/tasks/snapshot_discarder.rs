//! Removes the files of snapshots that nobody wants any more at the hosts that have them, once no accepted create
//! needs them. Never gives up.

use std::sync::Arc;
use std::time::Duration;

use wrenn_store::StoreError;
use wrenn_store::pg::{Job, JobKind};

use super::work::{self, Next, settle};
use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;

/// Between two looks whether the last create from a deleted snapshot is over.
const AWAITED_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(ctx: Arc<Context>) {
    work::run(ctx, JobKind::Discard, drive).await;
}

async fn drive(ctx: Arc<Context>, job: Job) {
    ctx.faults.reach(FaultPoint::DiscardClaimed).await;
    let next = step(&ctx, &job).await;
    settle(&ctx, JobKind::Discard, job.id, next).await;
}

async fn step(ctx: &Context, job: &Job) -> Result<Next, StoreError> {
    // A create that was accepted before the delete still needs the files; none can come after it.
    if ctx.store.snapshot_is_awaited(job.id.snapshot()).await? {
        tracing::debug!(snapshot = %job.id, "capsules are still made from the snapshot {}; its files stay until then", job.id);
        return Ok(Next::Later(AWAITED_AGAIN));
    }
    let asked = match ctx.fleet.host(&job.host_address) {
        Ok(host) => host.delete_snapshot(job.id.snapshot()).await,
        Err(error) => Err(error),
    };
    ctx.faults.reach(FaultPoint::DiscardCalled).await;
    match asked {
        Ok(()) if job.is_final => {
            ctx.store.job_finish(JobKind::Discard, job.id).await?;
            tracing::info!(snapshot = %job.id, "the files of the snapshot {} are removed", job.id);
            Ok(Next::Over)
        }
        // The host may still be writing what was given up: once more when that cannot be any more.
        Ok(()) => Ok(Next::Recheck),
        Err(error) => {
            tracing::warn!(snapshot = %job.id, error = %chain(&error), "cannot remove the snapshot {} at its host; trying again", job.id);
            Ok(Next::Retry(job.attempts))
        }
    }
}
