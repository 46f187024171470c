//! Pause and resume of sandboxes: each accepts by one compare-and-set and hands over to its task.

use std::sync::Arc;

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_domain::sizes::TimeoutSec;
use wrenn_store::pg::{Author, Change, Changed, Desired, NewAudit, Readmitted, Sandbox};

use super::lookup;
use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, quota_refusal};
use crate::extension::limits;
use crate::fault::FaultPoint;
use crate::scheduler;

/// Writes the wish that a running sandbox is paused. One that is paused or on its way there is answered as it is.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn pause(ctx: &Arc<Context>, actor: &Actor, id: SandboxId) -> Result<Sandbox, ServiceError> {
    let mut sandbox = lookup::get(ctx, actor, id).await?;
    ctx.faults.reach(FaultPoint::PauseAccepted).await;
    loop {
        let next = lawful(&sandbox, SandboxEvent::Pause, "only a running one can be paused")?;
        if next == sandbox.state {
            return Ok(sandbox);
        }
        let change = Change {
            state: Some(next),
            desired: Some(Desired::Paused),
            ..new_request(actor.team, &actor.author(), id, "pause")
        };
        match ctx.store.sandbox_change(id, sandbox.generation, &change).await? {
            Changed::Applied(now) => {
                ctx.faults.reach(FaultPoint::PauseStored).await;
                ctx.queues.pauses.wake_for(id);
                tracing::info!(sandbox = %id, operation = now.operation, "{id} is to pause");
                return Ok(*now);
            }
            // Every change moves the state machine on, so this ends.
            Changed::Stale(now) => sandbox = *now,
            Changed::Gone => return Err(lookup::not_found(id).into()),
        }
    }
}

/// Writes the wish that a paused sandbox runs again, or that a crashed one is booted from its kept disk, if its host has room.
/// One that runs or is on its way there is answered as it is.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn resume(
    ctx: &Arc<Context>,
    actor: &Actor,
    id: SandboxId,
    timeout: Option<TimeoutSec>,
) -> Result<Sandbox, ServiceError> {
    let sandbox = lookup::get(ctx, actor, id).await?;
    ctx.faults.reach(FaultPoint::ResumeAccepted).await;
    resume_for(ctx, sandbox, &actor.author(), timeout).await
}

/// Resumes a sandbox that was looked up already, on behalf of anybody who may.
pub(super) async fn resume_for(
    ctx: &Arc<Context>,
    sandbox: Sandbox,
    author: &Author,
    timeout: Option<TimeoutSec>,
) -> Result<Sandbox, ServiceError> {
    let mut sandbox = sandbox;
    let id = sandbox.id;
    loop {
        let next = lawful(&sandbox, SandboxEvent::Resume, "only a paused one can be resumed")?;
        if next == sandbox.state {
            return Ok(sandbox);
        }
        if sandbox.state == SandboxState::Error && !sandbox.disk_kept {
            return Err(conflict("the capsule failed and nothing of it is kept; create a new one".to_owned()).into());
        }
        let change = Change {
            state: Some(next),
            desired: Some(Desired::Running),
            timeout,
            ..new_request(sandbox.team, author, id, "resume")
        };
        let quota = limits::of(ctx, sandbox.team).await?;
        match scheduler::readmit(&ctx.store, ctx.config.disk_overcommit, &sandbox, &change, &quota).await? {
            Readmitted::Room(Changed::Applied(now)) => {
                ctx.faults.reach(FaultPoint::ResumeStored).await;
                ctx.queues.resumes.wake_for(id);
                tracing::info!(sandbox = %id, was = %sandbox.state, operation = now.operation, "{id} is to resume");
                return Ok(*now);
            }
            Readmitted::Room(Changed::Stale(now)) => sandbox = *now,
            Readmitted::Room(Changed::Gone) => return Err(lookup::not_found(id).into()),
            Readmitted::Refused(why) => return Err(quota_refusal(why).into()),
            Readmitted::HostAway => return Err(lookup::host_away().into()),
            Readmitted::Full => {
                return Err(Failure::new(
                    FailureKind::NoCapacity,
                    format!(
                        "the host that holds the capsule has no room to run it now ({} vCPU, {} MiB of memory); try again later, or pause or delete others",
                        sandbox.vcpus, sandbox.memory
                    ),
                )
                .into());
            }
        }
    }
}

/// A new wish: it gets a number of its own, and what went wrong with the last one is of no interest any more.
fn new_request(team: TeamId, author: &Author, id: SandboxId, action: &'static str) -> Change {
    Change {
        new_operation: true,
        clear_error: true,
        due_now: true,
        requested_by: Some(author.clone()),
        audit: vec![NewAudit::new(team, author.clone(), "sandbox", action).on(id)],
        ..Change::default()
    }
}

fn lawful(sandbox: &Sandbox, event: SandboxEvent, rule: &str) -> Result<SandboxState, Failure> {
    sandbox.state.after(event).map_err(|refused| conflict(format!("the capsule is {}; {rule}", refused.state)))
}

fn conflict(text: String) -> Failure {
    Failure::new(FailureKind::Conflict, text)
}
