//! A sandbox whose VM ended by itself: its disk is kept, and it can boot from it again or be deleted.

use std::sync::Arc;

use wrenn_vmm::Machine;

use super::command::{Command, refuse_capture};
use super::error::StartError;
use super::live::{PartialStart, random_token};
use super::report::Phase;
use super::start_plan::Source;
use super::starting::start_again;
use super::task::{Answer, LifeStage, Next, SandboxTask, set_timeout};
use super::teardown::{release, release_memory};
use crate::blocking::blocking;
use crate::failure::{ErrorCode, Failure};
use crate::ledger::{Ledger, Step};
use crate::network::Slot;

/// Gives back all of a sandbox but its disk, and notes what happened.
pub async fn crash(
    task: &mut SandboxTask,
    mut ledger: Ledger,
    slot: Option<Box<dyn Slot>>,
    machine: Option<Arc<dyn Machine>>,
    why: &str,
) -> LifeStage {
    tracing::warn!(sandbox = %task.id, "{} crashed: {why}", task.id);
    task.board.set_running(task.id, None);
    task.disconnect();
    release(&task.ctx, slot, machine).await;
    task.background_done().await;
    ledger.step = Step::Crashed;
    (ledger.slot, ledger.machine) = (None, None);
    why.clone_into(&mut ledger.crash);
    task.write(&ledger).await;
    let (store, dir) = (task.ctx.store.clone(), task.dir());
    blocking(move || release_memory(&store, &dir)).await;
    LifeStage::Crashed(Box::new(ledger))
}

/// Waits for a resume or a delete.
pub async fn crashed(task: &mut SandboxTask, ledger: Ledger) -> LifeStage {
    report(task, &ledger);
    loop {
        match task.next().await {
            Next::Delete => {
                task.clear(PartialStart::default()).await;
                return LifeStage::Gone;
            }
            Next::Command(Command::Resume { operation, timeout_sec }) => {
                let mut next = ledger.clone();
                set_timeout(&mut next, timeout_sec);
                match boot(task, next).await {
                    Ok(Some(sandbox)) => return LifeStage::Running(Box::new(sandbox), Answer::done(operation)),
                    Ok(None) => return LifeStage::Gone,
                    Err(failure) => {
                        report(task, &ledger);
                        task.answer(Phase::Crashed, Answer::failed(operation, failure));
                    }
                }
            }
            Next::Command(Command::Pause { operation }) => {
                let failure = Failure::new(ErrorCode::InvalidState, "the capsule is not running");
                task.answer(Phase::Crashed, Answer::failed(operation, failure));
            }
            Next::Command(Command::Capture(command)) => {
                refuse_capture(command, "the capsule has crashed; resume it first");
            }
            Next::Stop => return LifeStage::Gone,
        }
    }
}

fn report(task: &SandboxTask, ledger: &Ledger) {
    let why = &ledger.crash;
    let text = format!("the capsule crashed: {why}. Its disk is kept: resume boots from it, delete removes it");
    task.board.change(task.id, |report| {
        report.phase = Phase::Crashed;
        report.reason = Some(Failure::new(ErrorCode::AgentError, text));
    });
}

/// Boots from the disk. The ledger says crashed until the guest has confirmed, so that a kill leaves it what it is.
async fn boot(task: &mut SandboxTask, mut next: Ledger) -> Result<Option<super::live::RunningSandbox>, Failure> {
    task.phase(Phase::Resuming);
    next.memory_checksum = 0;
    let source = random_token().ok_or(StartError::Random).map(|token| {
        next.token = token;
        Source::Disk
    });
    start_again(task, next, source).await
}
