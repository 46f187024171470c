//! Snapshots of sandboxes: accepting the wish for one. The template it becomes belongs to templates.rs.

use std::sync::Arc;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{SandboxId, SnapshotId};
use wrenn_domain::names::TemplateName;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::pg::{Capture, Change, NewAudit, NewSnapshot, Sandbox, SnapshotBegun};

use super::lookup;
use crate::actor::Actor;
use crate::context::Context;
use crate::error::ServiceError;
use crate::fault::FaultPoint;

/// Reserves the name and writes the wish that a running or paused sandbox is captured. The sandbox is snapshotting when this
/// returns, and goes back to where it was when the capture is over. With `replace`, a snapshot the team has under the name gives way when
/// this one is ready, and not before.
///
/// # Errors
/// When the team has no such sandbox, its state does not allow it, the name is taken, or the database is away.
pub async fn create(
    ctx: &Arc<Context>,
    actor: &Actor,
    id: SandboxId,
    name: Option<TemplateName>,
    replace: bool,
) -> Result<Sandbox, ServiceError> {
    let mut sandbox = lookup::get(ctx, actor, id).await?;
    let snapshot = SnapshotId::from_uuid(Uuid::new_v4());
    let name = name.map_or_else(|| default_name(snapshot), Ok)?;
    let new = NewSnapshot { id: snapshot, name, author: actor.author(), replace };
    ctx.faults.reach(FaultPoint::SnapshotAccepted).await;
    loop {
        let state = sandbox.state;
        let next = state.after(SandboxEvent::Snapshot).map_err(|refused| {
            let text = format!("the capsule is {}; only a running or paused one can be captured", refused.state);
            Failure::new(FailureKind::NotRunning, text)
        })?;
        let capture = Capture { id: snapshot, from_paused: state == SandboxState::Paused };
        let audit = NewAudit::new(actor.team, actor.author(), "sandbox", "snapshot").on(id).with("name", &new.name);
        let change = Change {
            state: Some(next),
            capture: Some(capture),
            clear_error: true,
            audit: vec![audit],
            ..Change::default()
        };
        match ctx.store.snapshot_begin(&sandbox, &new, &change).await? {
            SnapshotBegun::Begun(now) => {
                ctx.faults.reach(FaultPoint::SnapshotStored).await;
                ctx.queues.snapshots.wake_for(snapshot.job());
                tracing::info!(sandbox = %id, %snapshot, name = %new.name, "{id} is to be captured as {}", new.name);
                return Ok(*now);
            }
            SnapshotBegun::Stale(now) => sandbox = *now,
            SnapshotBegun::NameTaken => {
                let text =
                    format!("there is a template {} already, or it is being made; choose another name", new.name);
                return Err(Failure::new(FailureKind::AlreadyExists, text).into());
            }
            SnapshotBegun::Gone => return Err(lookup::not_found(id).into()),
        }
    }
}

fn default_name(id: SnapshotId) -> Result<TemplateName, Failure> {
    format!("template-{:08x}", id.uuid().as_fields().0).parse()
}
