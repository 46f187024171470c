//! A running sandbox: used, captured, paused when asked or idle, until it no longer runs.

use super::command::{CaptureCommand, Command};
use super::crashed::crash;
use super::fork::fork_running;
use super::idle::idle;
use super::live::{RunningSandbox, console_tail};
use super::pausing::pause;
use super::report::Phase;
use super::snapshot::snapshot_running;
use super::task::{Answer, LifeStage, SandboxTask, set_timeout};

/// Hands the sandbox out and does what is asked until it is no longer running.
pub async fn running(task: &mut SandboxTask, mut sandbox: RunningSandbox, answer: Answer) -> LifeStage {
    task.hand_out(&sandbox);
    task.answer(Phase::Running, answer);
    loop {
        sandbox.prepared_copy.begin(&task.ctx, task.dir());
        let asked = tokio::select! {
            biased;
            () = task.delete.cancelled() => {
                task.clear_running(sandbox.slot, sandbox.machine).await;
                return LifeStage::Gone;
            }
            () = sandbox.machine.ended() => {
                let tail = console_tail(&sandbox.machine).await;
                let why = format!("its VM ended by itself; its console ends with: {tail}");
                return crash(task, sandbox.ledger, Some(sandbox.slot), Some(sandbox.machine), &why).await;
            }
            asked = task.commands.recv() => asked,
            // Last: a command that comes at the same moment is activity.
            () = idle(&task.board, &sandbox) => {
                let timeout_sec = sandbox.ledger.spec.timeout_sec;
                tracing::info!(sandbox = %task.id, "{} was idle for {timeout_sec} s; pausing it", task.id);
                Some(Command::Pause { operation: 0 })
            }
        };
        match asked {
            Some(Command::Pause { operation }) => return pause(task, sandbox, operation).await,
            Some(Command::Resume { operation, timeout_sec }) => {
                set_timeout(&mut sandbox.ledger, timeout_sec);
                task.write(&sandbox.ledger).await;
                task.hand_out(&sandbox);
                task.answer(Phase::Running, Answer::done(operation));
            }
            // It stands still for the instant only.
            Some(Command::Capture(CaptureCommand::Snapshot { id, reply })) => {
                // Whoever asked may have gone away meanwhile.
                drop(reply.send(snapshot_running(task, &sandbox, &id).await));
            }
            Some(Command::Capture(CaptureCommand::Fork { children, reply })) => {
                drop(reply.send(fork_running(task, &sandbox, children).await));
            }
            None => return LifeStage::Gone,
        }
    }
}
