//! Taking news of hosts: a report changes a row only if it is newer and the state machine allows it.
//!
//! What fulfils a wish (paused, running) counts whenever it is newer than what was known. What speaks against a wish (running while
//! it is to pause, paused or crashed while it is to resume) counts only as the answer to that wish, told by its operation: a
//! late word on an older wish never touches a newer one.

use wrenn_domain::SandboxErrorCode;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{Capture, Change, Changed, Desired, Sandbox, SandboxError};

use super::sandbox_events;

use crate::context::Context;
use crate::fault::FaultPoint;
use crate::fleet::{HostPhase, HostReport};

/// Takes a report. Answers the row as it is afterwards; none when there is no such row.
///
/// # Errors
/// When the database cannot be asked.
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
///
/// # Errors
/// When the database cannot be asked.
pub async fn take_event(
    ctx: &Context,
    id: SandboxId,
    seen: &Sandbox,
    event: SandboxEvent,
    error: Option<SandboxError>,
) -> Result<bool, StoreError> {
    let Ok(next) = seen.state.after(event) else { return Ok(false) };
    let change = sandbox_events::with_event(seen, Change { state: Some(next), error, ..consequences(event) });
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
    let event = event_of(sandbox, report)?;
    let next = sandbox.state.after(event).ok()?;
    let change = Change { state: Some(next), report: Some(report.mark.clone()), ..consequences(event) };
    let change = match (event, next) {
        (SandboxEvent::PauseFailed, _) => {
            Change { error: Some(refusal(report, "pause", SandboxErrorCode::PauseFailed)), ..change }
        }
        (SandboxEvent::ResumeFailed, _) => {
            Change { error: Some(refusal(report, "resume", SandboxErrorCode::ResumeFailed)), ..change }
        }
        (SandboxEvent::Crashed | SandboxEvent::Failed, SandboxState::Error) => {
            Change { error: Some(end(sandbox, report)), disk_kept: Some(report.phase == HostPhase::Crashed), ..change }
        }
        // Where it goes back to when it is captured.
        (SandboxEvent::Ready | SandboxEvent::PauseDone, SandboxState::Snapshotting) => Change {
            capture: sandbox.capture.map(|c| Capture { from_paused: event == SandboxEvent::PauseDone, ..c }),
            ..change
        },
        _ => change,
    };
    Some(sandbox_events::with_event(sandbox, change))
}

/// Judges what a report means for a sandbox in its present state; nothing while the host is on its way.
fn event_of(sandbox: &Sandbox, report: &HostReport) -> Option<SandboxEvent> {
    let answered = report.operation >= sandbox.operation;
    Some(match (report.phase, sandbox.state) {
        (HostPhase::Starting | HostPhase::Stopping | HostPhase::Pausing | HostPhase::Resuming, _) => return None,
        (HostPhase::Running, SandboxState::Pausing) if answered => SandboxEvent::PauseFailed,
        (HostPhase::Running, SandboxState::Pausing) => return None,
        (HostPhase::Running, _) => SandboxEvent::Ready,
        (HostPhase::Paused, SandboxState::Resuming) if !answered => return None,
        (HostPhase::Paused, SandboxState::Resuming) if !report.operation_error.is_empty() => SandboxEvent::ResumeFailed,
        (HostPhase::Paused, _) => SandboxEvent::PauseDone,
        (HostPhase::Gone, _) => SandboxEvent::Gone,
        (HostPhase::Failed, SandboxState::Starting) => SandboxEvent::Failed,
        (HostPhase::Crashed, SandboxState::Resuming) if !answered => return None,
        (HostPhase::Failed | HostPhase::Crashed, _) => SandboxEvent::Crashed,
    })
}

/// Lists what an event changes beside the state.
fn consequences(event: SandboxEvent) -> Change {
    match event {
        SandboxEvent::Ready | SandboxEvent::PauseFailed => {
            Change { desired: Some(Desired::Running), disk_kept: Some(false), ..Change::default() }
        }
        SandboxEvent::PauseDone | SandboxEvent::ResumeFailed => {
            Change { desired: Some(Desired::Paused), disk_kept: Some(false), ..Change::default() }
        }
        SandboxEvent::Gone | SandboxEvent::Failed => Change { disk_kept: Some(false), ..Change::default() },
        SandboxEvent::Crashed
        | SandboxEvent::Pause
        | SandboxEvent::Resume
        | SandboxEvent::Snapshot
        | SandboxEvent::SnapshotDoneRunning
        | SandboxEvent::SnapshotDonePaused
        | SandboxEvent::Delete
        | SandboxEvent::HostLost => Change::default(),
    }
}

fn refusal(report: &HostReport, act: &str, code: SandboxErrorCode) -> SandboxError {
    let message = match report.operation_error.as_str() {
        "" => format!("the host could not {act} the capsule"),
        why => format!("the {act} did not work: {why}"),
    };
    SandboxError::new(message, code)
}

/// Why a sandbox is over: the reason of its end, or why booting its kept disk did not work.
fn end(sandbox: &Sandbox, report: &HostReport) -> SandboxError {
    if sandbox.state == SandboxState::Resuming && !report.operation_error.is_empty() {
        return refusal(report, "resume", SandboxErrorCode::ResumeFailed);
    }
    let message = match report.reason.as_str() {
        "" => "the capsule ended by itself".to_owned(),
        reason => reason.to_owned(),
    };
    SandboxError { message, code: report.reason_code.map(SandboxErrorCode::Ended) }
}

fn note(was: SandboxState, now: &Sandbox, report: &HostReport) {
    if was == now.state {
        return;
    }
    let id = now.id;
    if !report.operation_error.is_empty() && report.operation == now.operation {
        tracing::warn!(sandbox = %id, %was, now = %now.state, why = %report.operation_error, "{id} stays {}", now.state);
    } else if now.state == SandboxState::Error {
        tracing::warn!(sandbox = %id, %was, reason = %report.reason, code = ?report.reason_code, "{id} failed");
    } else {
        tracing::info!(sandbox = %id, %was, now = %now.state, "{id} is {}", now.state);
    }
}
