//! A paused sandbox: its newest capture is all there is of it.

use super::command::{CaptureCommand, Command};
use super::error::StartError;
use super::fork::fork_paused;
use super::live::{PartialStart, random_token};
use super::report::Phase;
use super::snapshot::snapshot_paused;
use super::start_plan::Source;
use super::starting::start_again;
use super::task::{Answer, LifeStage, Next, SandboxTask, set_timeout};
use super::teardown::release_files;
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::faults::Point;
use crate::ledger::Ledger;
use crate::storage::Capture;

/// Waits for a resume, a delete, or something to be made of it. A fork's child that never ran is started at once.
pub async fn paused(task: &mut SandboxTask, mut ledger: Ledger) -> LifeStage {
    if ledger.never_started {
        return match resume(task, &mut ledger, 0).await {
            Ok(stage) => stage,
            // Nothing is lost with it: its source has all it had.
            Err(failure) => {
                task.clear(PartialStart::default()).await;
                task.report_failed(failure);
                LifeStage::Failed
            }
        };
    }
    let spec = ledger.spec.clone();
    task.board.change(task.id, |report| {
        report.phase = Phase::Paused;
        report.spec = spec;
    });
    loop {
        match task.next().await {
            Next::Delete => {
                task.clear(PartialStart::default()).await;
                return LifeStage::Gone;
            }
            Next::Command(Command::Pause { operation }) => task.answer(Phase::Paused, Answer::done(operation)),
            Next::Command(Command::Resume { operation, timeout_sec }) => {
                set_timeout(&mut ledger, timeout_sec);
                match resume(task, &mut ledger, operation).await {
                    Ok(stage) => return stage,
                    Err(failure) => task.answer(Phase::Paused, Answer::failed(operation, failure)),
                }
            }
            Next::Command(Command::Capture(CaptureCommand::Snapshot { id, reply })) => {
                // Whoever asked may have gone away meanwhile.
                drop(reply.send(snapshot_paused(task, &ledger, &id).await));
            }
            Next::Command(Command::Capture(CaptureCommand::Fork { children, reply })) => {
                drop(reply.send(fork_paused(task, &ledger, children).await));
            }
            Next::Stop => return LifeStage::Gone,
        }
    }
}

/// Starts it from its capture, which stays until the guest has confirmed.
async fn resume(task: &mut SandboxTask, ledger: &mut Ledger, operation: u64) -> Result<LifeStage, Failure> {
    let (id, dir) = (task.id, task.dir());
    task.phase(if ledger.never_started { Phase::Starting } else { Phase::Resuming });
    task.vmm_gone().await;
    let mut next = ledger.clone();
    let source = open_capture(task, ledger).await.and_then(|capture| {
        next.token = random_token().ok_or(StartError::Random)?;
        Ok(Source::Capture(Box::new(capture)))
    });
    if source.is_ok() {
        task.ctx.faults.reach(Point::ResumeRequested, None);
    }
    match start_again(task, next, source).await {
        Ok(Some(sandbox)) => {
            tracing::info!(sandbox = %id, "{id} runs again");
            Ok(LifeStage::Running(Box::new(sandbox), Answer::done(operation)))
        }
        Ok(None) => Ok(LifeStage::Gone),
        Err(failure) => {
            let (store, generation) = (task.ctx.store.clone(), ledger.generation);
            blocking(move || release_files(&store, &dir, generation)).await;
            task.write(ledger).await;
            Err(failure)
        }
    }
}

/// Opens the newest capture and checks that it can be loaded here; after a reboot of the host that reads all of its memory.
async fn open_capture(task: &SandboxTask, ledger: &Ledger) -> Result<Capture, StartError> {
    let (ctx, path) = (std::sync::Arc::clone(&task.ctx), ledger.capture_dir(&task.dir()));
    let opened = blocking(move || {
        let capture = Capture::open(&ctx.store, &path)?;
        capture.check(&ctx.compatibility, &ctx.boot_id)?;
        Ok(capture)
    });
    opened.await
}
