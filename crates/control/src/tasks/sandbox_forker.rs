//! Makes the children of forks: one call to the source's host for all of them, then each is a sandbox like any other.
//!
//! The call is repeatable with the same children: while one of them is there the host takes no second instant. The source's state
//! never changes.

use std::sync::Arc;

use connectrpc::ErrorCode;
use wrenn_domain::ErrorCode as Refusal;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{Job, JobKind, Sandbox, SandboxError};

use super::work::{self, Next, renew_while, settle};
use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::fleet::{FleetError, ForkedChild};
use crate::service::reports;

pub(super) async fn run(ctx: Arc<Context>) {
    work::run(ctx, JobKind::Fork, drive).await;
}

async fn drive(ctx: Arc<Context>, job: Job) {
    ctx.faults.reach(FaultPoint::ForkClaimed).await;
    let next = step(&ctx, &job).await;
    ctx.fork_done.notify_waiters();
    settle(&ctx, JobKind::Fork, job.id, next).await;
}

async fn step(ctx: &Context, job: &Job) -> Result<Next, StoreError> {
    let children = ctx.store.fork_children(job.id.fork()).await?;
    let Some(asked) = renew_while(ctx, JobKind::Fork, job.id, ask(ctx, job, &children)).await else {
        return Ok(Next::Over);
    };
    ctx.faults.reach(FaultPoint::ForkCalled).await;
    match asked {
        Ok(said) => {
            for (row, said) in children.into_iter().zip(said) {
                note(ctx, row, said).await?;
                ctx.faults.reach(FaultPoint::ForkChildNoted).await;
            }
        }
        Err(error) => {
            let age = (chrono::Utc::now() - job.created_at).to_std().unwrap_or_default();
            if error.is_away() && age < ctx.tuning.create_give_up {
                tracing::warn!(fork = %job.id, error = %chain(&error), "the host of the fork {} cannot be reached; trying again", job.id);
                return Ok(Next::Retry(job.attempts));
            }
            tracing::warn!(fork = %job.id, error = %chain(&error), "the fork {} cannot be made", job.id);
            let (text, code) = explain(&error);
            for row in children {
                fail(ctx, row, SandboxError::ended(text, code)).await?;
            }
        }
    }
    ctx.faults.reach(FaultPoint::ForkNoted).await;
    ctx.store.fork_finish(job.id.fork()).await?;
    Ok(Next::Over)
}

async fn ask(ctx: &Context, job: &Job, children: &[Sandbox]) -> Result<Vec<ForkedChild>, FleetError> {
    let Some(source) = job.sandbox else {
        return Err(FleetError::Nonsense("the fork has no source".to_owned()));
    };
    let ids: Vec<SandboxId> = children.iter().map(|child| child.id).collect();
    ctx.fleet.host(&job.host_address)?.fork_sandbox(source, &ids).await
}

async fn note(ctx: &Context, row: Sandbox, said: ForkedChild) -> Result<(), StoreError> {
    match said.outcome {
        Ok(report) => reports::take(ctx, row, &report).await.map(drop),
        Err(error) => fail(ctx, row, error).await,
    }
}

/// The child will not be. One that somebody deleted meanwhile goes its own way.
async fn fail(ctx: &Context, mut row: Sandbox, error: SandboxError) -> Result<(), StoreError> {
    while row.state == SandboxState::Starting {
        if reports::take_event(ctx, row.id, &row, SandboxEvent::Failed, Some(error.clone())).await? {
            return Ok(());
        }
        // Every turn means that somebody else moved the row on; its generation only grows.
        match ctx.store.sandbox_list_by_id(&[row.id]).await?.pop() {
            Some(now) => row = now,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn explain(error: &FleetError) -> (&'static str, Refusal) {
    match error {
        error if error.is_away() => ("the host could not be reached; fork again", Refusal::HostUnavailable),
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => {
            ("the host had no room left; try again or fork fewer", Refusal::NoHostsAvailable)
        }
        FleetError::Answered { code: ErrorCode::NotFound | ErrorCode::FailedPrecondition, .. } => {
            ("the source was neither running nor paused on its host any more", Refusal::InvalidState)
        }
        _ => ("the host could not fork the capsule; try again", Refusal::AgentError),
    }
}
