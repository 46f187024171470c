//! Taking news of hosts: a report changes a row only if it is newer and the state machine allows it.

use wrenn_domain::ids::SandboxId;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{Change, Changed, Sandbox};

use super::news;

use crate::context::Context;
use crate::fault::FaultPoint;
use crate::fleet::{HostPhase, HostReport};

/// Takes a report. Answers the row as it is afterwards; none when there is no such row.
pub async fn take(ctx: &Context, sandbox: Sandbox, report: &HostReport) -> Result<Option<Sandbox>, StoreError> {
    let mut sandbox = sandbox;
    loop {
        let Some(change) = change_for(&sandbox, report) else { return Ok(Some(sandbox)) };
        ctx.faults.reach(FaultPoint::ReportReceived).await;
        let was = sandbox.state;
        match ctx.store.sandbox_change(sandbox.id, sandbox.generation, &change).await? {
            Changed::Applied(now) => {
                ctx.outbox.notify_one();
                note(was, &now, report);
                return Ok(Some(*now));
            }
            // Every turn means that somebody else moved the row on; its generation only grows.
            Changed::Stale(now) => sandbox = *now,
            Changed::Gone => return Ok(None),
        }
    }
}

/// Takes an event that no host reported: given up, or gone with its host's memory of it.
pub async fn take_event(
    ctx: &Context,
    id: SandboxId,
    seen: &Sandbox,
    event: SandboxEvent,
    error: Option<(String, String)>,
) -> Result<bool, StoreError> {
    let Ok(next) = seen.state.after(event) else { return Ok(false) };
    let change = news::told(seen, Change { state: Some(next), error, ..Change::default() });
    match ctx.store.sandbox_change(id, seen.generation, &change).await? {
        Changed::Applied(now) => {
            ctx.outbox.notify_one();
            tracing::info!(sandbox = %id, was = %seen.state, now = %now.state, %event, "{id} is {}", now.state);
            Ok(true)
        }
        Changed::Stale(_) | Changed::Gone => Ok(false),
    }
}

fn change_for(sandbox: &Sandbox, report: &HostReport) -> Option<Change> {
    // A host that was silent reports what it reported before; for a missing sandbox that is news.
    let again = sandbox.state == SandboxState::Missing && report.mark.generation == sandbox.report_generation;
    if report.mark.generation <= sandbox.report_generation && !again {
        return None;
    }
    let event = match report.phase {
        HostPhase::Starting | HostPhase::Stopping => return None,
        HostPhase::Running => SandboxEvent::Ready,
        HostPhase::Gone => SandboxEvent::Gone,
        HostPhase::Failed if sandbox.state == SandboxState::Starting => SandboxEvent::Failed,
        HostPhase::Failed | HostPhase::Crashed => SandboxEvent::Crashed,
    };
    let next = sandbox.state.after(event).ok()?;
    let failed = next == SandboxState::Error && sandbox.state != SandboxState::Error;
    let error = failed.then(|| {
        let text = match report.reason.as_str() {
            "" => "the capsule ended by itself".to_owned(),
            reason => reason.to_owned(),
        };
        (text, report.reason_code.clone())
    });
    let change = Change { state: Some(next), error, report: Some(report.mark.clone()), ..Change::default() };
    Some(news::told(sandbox, change))
}

fn note(was: SandboxState, now: &Sandbox, report: &HostReport) {
    if was == now.state {
        return;
    }
    let id = now.id;
    if now.state == SandboxState::Error {
        tracing::warn!(sandbox = %id, %was, reason = %report.reason, code = %report.reason_code, "{id} failed");
    } else {
        tracing::info!(sandbox = %id, %was, now = %now.state, "{id} is {}", now.state);
    }
}
