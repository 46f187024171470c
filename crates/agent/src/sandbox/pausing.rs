//! Pausing a running sandbox: its capture becomes the sandbox, then its VM ends. When that does not work it runs on.

use crate::failure::cause;
use std::sync::Arc;

use super::capture::{AfterCapture, CapturePlan, FaultPoints, write_capture};
use super::error::CaptureError;
use super::live::RunningSandbox;
use super::machine::MachineSizes;
use super::report::Phase;
use super::task::{Answer, LifeStage, SandboxTask};
use super::teardown::{release, release_files};
use crate::blocking::blocking;
use crate::faults::Point;
use crate::guest::notify_resumed;
use crate::ledger::Step;

/// Captures the sandbox and ends its VM.
pub async fn pause(task: &mut SandboxTask, mut sandbox: RunningSandbox, operation: u64) -> LifeStage {
    let id = task.id;
    task.board.set_running(id, None);
    task.phase(Phase::Pausing);
    task.background_done().await;
    sandbox.ledger.step = Step::Pausing;
    sandbox.ledger.generation += 1;
    task.write(&sandbox.ledger).await;
    let pid = sandbox.machine.record().process.pid;
    task.ctx.faults.reach(Point::PauseRequested, Some(pid));
    if let Err(error) = capture(task, &sandbox).await {
        tracing::error!(sandbox = %id, error = cause(&error), "{id} could not be paused; it runs on");
        if let Err(stuck) = sandbox.machine.resume().await {
            // Its end is noticed by whoever watches it; it is not ended for this.
            tracing::error!(sandbox = %id, error = cause(&stuck), "the VM of {id} does not go on");
        }
        notify_resumed(&sandbox.guest, &sandbox.ledger.lifecycle).await;
        sandbox.ledger.step = Step::Ready;
        task.write(&sandbox.ledger).await;
        return LifeStage::Running(Box::new(sandbox), Answer::failed(operation, error.failure()));
    }
    // From here on the capture is the sandbox, whatever happens.
    task.ctx.faults.reach(Point::PauseCommitted, Some(pid));
    rest(task, sandbox, operation).await
}

async fn capture(task: &SandboxTask, sandbox: &RunningSandbox) -> Result<(), CaptureError> {
    let dir = task.dir();
    let path = sandbox.ledger.capture_dir(&dir);
    let plan = CapturePlan { dir: &dir, path: &path, after: AfterCapture::StayPaused, points: FaultPoints::PAUSE };
    let (draft, _) = write_capture(&task.ctx, sandbox, &plan).await?;
    blocking(move || draft.commit()).await?;
    Ok(())
}

/// Notes that the capture is the sandbox, and gives back what only a running one needs.
async fn rest(task: &mut SandboxTask, sandbox: RunningSandbox, operation: u64) -> LifeStage {
    let RunningSandbox { mut ledger, slot, machine, .. } = sandbox;
    let pid = machine.record().process.pid;
    ledger.step = Step::Paused;
    (ledger.slot, ledger.machine) = (None, None);
    task.write(&ledger).await;
    task.ctx.faults.reach(Point::PauseNoted, Some(pid));
    task.disconnect();
    // Only a resume waits for its VMM to end, which takes as long as it has memory; and only a removal for its network to come apart.
    let (ctx, dir, generation) = (Arc::clone(&task.ctx), task.dir(), ledger.generation);
    let ended = task.vmm_is_ending();
    task.in_background(async move {
        release(&ctx, None, Some(machine)).await;
        ctx.faults.reach(Point::PauseReleased, None);
        let store = ctx.store.clone();
        blocking(move || release_files(&store, &dir, generation)).await;
        drop(ended);
        release(&ctx, Some(slot), None).await;
    });
    let (vcpus, memory_mib) = (ledger.spec.vcpus, ledger.spec.memory_mib);
    task.pools.expect_restore(&MachineSizes { vcpus, memory_mib });
    task.answer(Phase::Paused, Answer::done(operation));
    tracing::info!(sandbox = %task.id, "{} is paused", task.id);
    LifeStage::Paused(Box::new(ledger))
}
