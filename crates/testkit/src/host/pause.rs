//! Pause and resume of the simulated host. A paused guest's process is stopped and keeps its memory; a crashed one is started
//! again over its disk.

use std::sync::Arc;

use connectrpc::{ConnectError, ErrorCode};
use wrenn_contract::proto::wrenn::host::v1::{PauseSandboxRequest, ResumeSandboxRequest, SandboxPhase, SandboxReport};

use super::boot::{now_ms, start_guest};
use super::guest::GuestProcess;
use super::state::{Inner, Sim};

/// Accepts a pause.
pub(super) async fn pause(inner: Arc<Inner>, wish: PauseSandboxRequest) -> Result<SandboxReport, ConnectError> {
    let id = wish.sandbox_id;
    let behaviour = inner.called("pause", &id);
    tokio::time::sleep(behaviour.delay).await;
    if let Some(code) = behaviour.refuse_pause {
        return Err(ConnectError::new(code, "refused on purpose"));
    }
    match accept(&inner, &id, wish.operation)? {
        Some(SandboxPhase::Running) => {}
        Some(SandboxPhase::Paused | SandboxPhase::Pausing) | None => return present(&inner, &id),
        Some(_) => return Err(ConnectError::new(ErrorCode::FailedPrecondition, "not running")),
    }
    let report = inner.change(&id, |sim| sim.report.phase = SandboxPhase::Pausing.into()).ok_or_else(unknown)?;
    // Read after it stands: one that is released meanwhile must not be held for ever.
    if !inner.behaviour().hold_pauses {
        let id = id.clone();
        tokio::spawn(async move { finish_pause(&inner, &id) });
    }
    Ok(report)
}

/// Takes a sandbox from PAUSING to PAUSED, or back to RUNNING.
pub(super) fn finish_pause(inner: &Inner, id: &str) {
    let failure = inner.behaviour().fail_pauses;
    inner.change(id, |sim| {
        if sim.report.phase.as_known() != Some(SandboxPhase::Pausing) {
            return;
        }
        match failure {
            None => stop(sim),
            Some(failure) => {
                sim.report.phase = SandboxPhase::Running.into();
                over(sim, Some(failure));
            }
        }
    });
}

/// Stops the guest where it stands.
pub(super) fn stop(sim: &mut Sim) {
    if let Some(guest) = &sim.guest {
        guest.run(false);
    }
    sim.report.phase = SandboxPhase::Paused.into();
    over(sim, None);
}

/// Accepts a resume.
pub(super) async fn resume(inner: Arc<Inner>, wish: ResumeSandboxRequest) -> Result<SandboxReport, ConnectError> {
    let id = wish.sandbox_id;
    let behaviour = inner.called("resume", &id);
    tokio::time::sleep(behaviour.delay).await;
    if let Some(code) = behaviour.refuse_resume {
        return Err(ConnectError::new(code, "refused on purpose"));
    }
    let from = match accept(&inner, &id, wish.operation)? {
        Some(from @ (SandboxPhase::Paused | SandboxPhase::Crashed)) => from,
        Some(SandboxPhase::Running | SandboxPhase::Resuming) | None => return present(&inner, &id),
        Some(_) => return Err(ConnectError::new(ErrorCode::FailedPrecondition, "neither paused nor crashed")),
    };
    let accepted = inner.change(&id, |sim| {
        sim.resumed_from = Some(from);
        sim.report.phase = SandboxPhase::Resuming.into();
        if let Some(timeout) = wish.timeout_sec {
            sim.report.timeout_sec = timeout;
        }
    });
    let report = accepted.ok_or_else(unknown)?;
    if !inner.behaviour().hold_resumes {
        tokio::spawn(finish_resume(inner, id));
    }
    Ok(report)
}

/// Takes a sandbox from RESUMING to RUNNING, or back to where it was.
pub(super) async fn finish_resume(inner: Arc<Inner>, id: String) {
    let (from, disk) = {
        let state = inner.state.lock().expect("no panic while held");
        let Some(sim) = state.sandboxes.get(&id) else { return };
        (sim.resumed_from, sim.home.clone())
    };
    let cold = from == Some(SandboxPhase::Crashed);
    let guest = match inner.behaviour().fail_resumes {
        Some(failure) => Err(failure),
        None if cold => start_guest(&inner, disk).await,
        None => Ok(None),
    };
    inner.change(&id, |sim| {
        if sim.report.phase.as_known() != Some(SandboxPhase::Resuming) {
            return;
        }
        let failure = guest.map(|guest| wake(sim, guest, cold)).err();
        if failure.is_some() {
            sim.report.phase = from.unwrap_or(SandboxPhase::Paused).into();
        }
        over(sim, failure);
    });
}

fn wake(sim: &mut Sim, guest: Option<GuestProcess>, cold: bool) {
    if cold {
        (sim.guest, sim.home) = (guest, None);
        sim.report.metadata.insert("resumed_from".to_owned(), "disk".to_owned());
        sim.report.reason.clear();
    } else if let Some(guest) = &sim.guest {
        guest.run(true);
        sim.report.metadata.remove("resumed_from");
    }
    sim.report.phase = SandboxPhase::Running.into();
    sim.report.started_at_ms = now_ms();
    sim.report.last_active_at_ms = now_ms();
}

/// Notes that the newest pause or resume is over.
fn over(sim: &mut Sim, failure: Option<(String, String)>) {
    sim.report.operation = sim.operation;
    (sim.report.operation_error_code, sim.report.operation_error) = failure.unwrap_or_default();
}

/// Takes a wish's number. Answers the present phase, or none when a newer wish was taken before.
fn accept(inner: &Inner, id: &str, operation: u64) -> Result<Option<SandboxPhase>, ConnectError> {
    let mut state = inner.state.lock().expect("no panic while held");
    let sim = state.sandboxes.get_mut(id).ok_or_else(unknown)?;
    let phase = sim.report.phase.as_known().filter(|phase| *phase != SandboxPhase::Gone).ok_or_else(unknown)?;
    if operation < sim.operation {
        return Ok(None);
    }
    sim.operation = operation;
    Ok(Some(phase))
}

fn present(inner: &Inner, id: &str) -> Result<SandboxReport, ConnectError> {
    let state = inner.state.lock().expect("no panic while held");
    state.sandboxes.get(id).map(|sim| sim.report.clone()).ok_or_else(unknown)
}

fn unknown() -> ConnectError {
    ConnectError::new(ErrorCode::NotFound, "no such sandbox")
}
