//! Snapshots of sandboxes: accepting the wish for one. The template it becomes belongs to templates.rs.

use std::sync::Arc;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::pg::{Capture, Change, NewAudit, NewSnapshot, Sandbox, SnapshotBegun};

use super::{Actor, ServiceError, sandboxes};
use crate::context::Context;
use crate::fault::FaultPoint;

/// Reserves the name and writes the wish that a running or paused sandbox is captured. The sandbox is snapshotting when this
/// returns, and goes back to where it was when the capture is over.
pub async fn create(
    ctx: &Arc<Context>,
    actor: &Actor,
    id: SandboxId,
    name: Option<TemplateName>,
) -> Result<Sandbox, ServiceError> {
    let mut sandbox = sandboxes::get(ctx, actor, id).await?;
    let template = Uuid::new_v4();
    let name = name.map_or_else(|| default_name(template), Ok)?;
    let new = NewSnapshot { id: template, name, author: actor.author() };
    ctx.faults.reach(FaultPoint::SnapshotAccepted).await;
    loop {
        let state = sandbox.state;
        let next = state.after(SandboxEvent::Snapshot).map_err(|refused| {
            let text = format!("the capsule is {}; only a running or paused one can be captured", refused.state);
            Failure::new(FailureKind::NotRunning, text)
        })?;
        let capture = Capture { id: template, from_paused: state == SandboxState::Paused };
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
                ctx.captures.wake_for(template);
                tracing::info!(sandbox = %id, %template, name = %new.name, "{id} is to be captured as {}", new.name);
                return Ok(*now);
            }
            SnapshotBegun::Stale(now) => sandbox = *now,
            SnapshotBegun::NameTaken => {
                let text =
                    format!("there is a template {} already, or it is being made; choose another name", new.name);
                return Err(Failure::new(FailureKind::AlreadyExists, text).into());
            }
            SnapshotBegun::Gone => return Err(sandboxes::not_found(id).into()),
        }
    }
}

fn default_name(id: Uuid) -> Result<TemplateName, Failure> {
    format!("template-{:08x}", id.as_fields().0).parse()
}
