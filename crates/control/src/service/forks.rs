//! Forks of sandboxes: accepting the wish for children, and waiting for what becomes of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{ForkId, SandboxId};
use wrenn_domain::sandbox::SandboxState;
use wrenn_domain::sizes::ForkCount;
use wrenn_domain::{ErrorCode, SandboxErrorCode};
use wrenn_store::StoreError;
use wrenn_store::pg::{Forked, NewAudit, NewFork, Sandbox};

use super::{credential_watch, lookup};
use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, quota_refusal};
use crate::extension::limits;
use crate::fault::FaultPoint;
use crate::scheduler;

/// Between two looks at a fork that another control plane may be driving.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Why one child was not made.
#[derive(Debug, Clone)]
pub struct ChildError {
    pub code: ErrorCode,
    /// For the user.
    pub message: String,
}

/// Makes `count` children of a running or paused sandbox, all from one instant, and waits until its host has confirmed them.
/// Answers one result each, in order. When the wait is over first, children are answered as they are: starting.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn fork(
    ctx: &Arc<Context>,
    actor: &Actor,
    id: SandboxId,
    count: ForkCount,
) -> Result<Vec<Result<Sandbox, ChildError>>, ServiceError> {
    let source = lookup::get(ctx, actor, id).await?;
    if !matches!(source.state, SandboxState::Running | SandboxState::Paused) {
        let text = format!("the capsule is {}; only a running or paused one can be forked", source.state);
        return Err(Failure::new(FailureKind::NotRunning, text).into());
    }
    ctx.faults.reach(FaultPoint::ForkAccepted).await;
    let children = (0..count.get()).map(|_| SandboxId::from_uuid(Uuid::new_v4())).collect();
    let new = NewFork {
        id: ForkId::from_uuid(Uuid::new_v4()),
        key: actor.key.as_ref().map(|key| key.id),
        user: actor.user(),
        author: actor.author(),
        audit: vec![NewAudit::new(actor.team, actor.author(), "sandbox", "fork").on(id).with("children", count.get())],
        children,
    };
    let quota = limits::of(ctx, actor.team).await?;
    let made = match scheduler::fork(&ctx.store, ctx.config.disk_overcommit, &source, &new, &quota).await? {
        Forked::Children(made) => made,
        Forked::Refused(why) => return Err(quota_refusal(why).into()),
        Forked::HostAway => return Err(lookup::host_away().into()),
    };
    ctx.faults.reach(FaultPoint::ForkStored).await;
    if !made.is_empty() {
        tracing::info!(sandbox = %id, fork = %new.id, children = made.len(), "{id} is to be forked");
        ctx.queues.forks.wake_for(new.id.job());
        // The fork itself is accepted and goes on; only the wait ends with the credential.
        credential_watch::while_held(ctx, actor, async { Ok(wait(ctx, new.id).await?) }).await?;
    }
    results(ctx, &new.children, made.len(), &source).await
}

async fn wait(ctx: &Context, fork: ForkId) -> Result<(), StoreError> {
    let deadline = Instant::now() + ctx.tuning.fork_wait;
    loop {
        // Registered before the look, so that no news falls in between.
        let done = ctx.fork_done.notified();
        tokio::pin!(done);
        done.as_mut().enable();
        if ctx.store.fork_children(fork).await?.is_empty() || Instant::now() >= deadline {
            return Ok(());
        }
        let _ = tokio::time::timeout(POLL_EVERY, done).await;
    }
}

async fn results(
    ctx: &Context,
    children: &[SandboxId],
    room: usize,
    source: &Sandbox,
) -> Result<Vec<Result<Sandbox, ChildError>>, ServiceError> {
    let rows = ctx.store.sandbox_list_by_id(&children[..room]).await?;
    let mut rows: HashMap<SandboxId, Sandbox> = rows.into_iter().map(|row| (row.id, row)).collect();
    let full = ChildError {
        code: ErrorCode::NoHostsAvailable,
        message: format!(
            "the host that holds the capsule has no room for this child now ({} vCPU, {} MiB of memory); try again later, or pause or delete others",
            source.vcpus, source.memory
        ),
    };
    let result = |child: &SandboxId| match rows.remove(child) {
        Some(row) if row.state == SandboxState::Error => Err(failure(&row)),
        Some(row) => Ok(row),
        None => Err(full.clone()),
    };
    Ok(children.iter().map(result).collect())
}

fn failure(row: &Sandbox) -> ChildError {
    ChildError {
        code: match row.error_code {
            Some(SandboxErrorCode::Ended(code)) => code,
            Some(SandboxErrorCode::PauseFailed | SandboxErrorCode::ResumeFailed | SandboxErrorCode::SnapshotFailed)
            | None => ErrorCode::AgentError,
        },
        message: row.error.clone().unwrap_or_else(|| "the host could not make this child".to_owned()),
    }
}
