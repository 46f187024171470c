//! A sandbox that starts: for the first time, or again from what is on its disk. A delete wins over a start that ends at the same
//! moment.

use super::command::{Command, refuse_capture};
use super::create::create;
use super::error::StartError;
use super::live::{PartialStart, RunningSandbox};
use super::report::Phase;
use super::start::Start;
use super::start_plan::{Source, StartKind};
use super::task::{Answer, LifeStage, Next, SandboxTask};
use super::teardown::release_partial;
use crate::failure::{ErrorCode, Failure, cause};
use crate::ledger::{Ledger, SandboxSpec};

/// Makes a new sandbox.
pub async fn starting(task: &mut SandboxTask, spec: SandboxSpec) -> LifeStage {
    let id = task.id;
    let mut partial = PartialStart::default();
    let started = tokio::select! {
        biased;
        () = task.delete.cancelled() => None,
        started = create(&task.ctx, &task.pools, spec, &mut partial) => Some(started),
    };
    match started {
        Some(Ok(sandbox)) => {
            task.settle_in_background();
            LifeStage::Running(Box::new(sandbox), Answer::default())
        }
        Some(Err(error)) => {
            tracing::error!(sandbox = %id, error = cause(&error), "{id} could not be made");
            task.clear(partial).await;
            task.report_failed(error.failure());
            LifeStage::Failed
        }
        None => {
            task.clear(partial).await;
            LifeStage::Gone
        }
    }
}

/// Starts a sandbox that was there before; `None`: it was deleted meanwhile, and nothing of it is left.
///
/// # Errors
/// It does not come back: nothing runs, and what is on its disk is as it was.
pub async fn start_again(
    task: &mut SandboxTask,
    next: Ledger,
    source: Result<Source, StartError>,
) -> Result<Option<RunningSandbox>, Failure> {
    let (id, dir) = (task.id, task.dir());
    let mut partial = PartialStart::default();
    let tried = async {
        let _in_progress = task.ctx.start_load.begin_start();
        let admitted = task.board.admit_memory(id, next.spec.memory_mib);
        admitted.map_err(|refusal| Failure::new(ErrorCode::NoHostsAvailable, refusal.to_string()))?;
        let start = Start { ctx: &task.ctx, pools: &task.pools, dir: &dir, kind: StartKind::Resume };
        let started = match source {
            Ok(source) => start.run(next, source, &mut partial).await,
            Err(error) => Err(error),
        };
        started.map_err(|error| {
            tracing::error!(sandbox = %id, error = cause(&error), "{id} does not come back");
            error.failure()
        })
    };
    let outcome = tokio::select! {
        biased;
        () = task.delete.cancelled() => None,
        outcome = tried => Some(outcome),
    };
    match outcome {
        None => {
            task.clear(partial).await;
            Ok(None)
        }
        Some(Ok(sandbox)) => {
            task.settle_in_background();
            Ok(Some(sandbox))
        }
        Some(Err(failure)) => {
            release_partial(&task.ctx, partial).await;
            Err(failure)
        }
    }
}

/// Keeps the report of a sandbox that was never made, until it is deleted.
pub async fn failed(task: &mut SandboxTask) -> LifeStage {
    loop {
        match task.next().await {
            Next::Delete | Next::Stop => return LifeStage::Gone,
            Next::Command(Command::Pause { operation } | Command::Resume { operation, .. }) => {
                let text = "the capsule was never made; create a new one";
                task.answer(Phase::Failed, Answer::failed(operation, Failure::new(ErrorCode::InvalidState, text)));
            }
            Next::Command(Command::Capture(command)) => refuse_capture(command, "the capsule was never made"),
        }
    }
}
