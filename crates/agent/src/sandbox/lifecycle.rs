//! The life of one sandbox, from its request until nothing of it is left: one function for each stage, which ends with what comes
//! next.
//!
//! ```text
//! starting -> running <-> paused
//!    \           \------> crashed -> running (booted from its disk)
//!     failed                    any -> gone
//! ```

use std::sync::Arc;

use wrenn_vmm::Machine;

use super::adopted::adopted;
use super::crashed::crashed;
use super::paused::paused;
use super::running::running;
use super::starting::{failed, starting};
use super::task::{LifeStage, SandboxTask};
use crate::ledger::{Ledger, SandboxSpec};

/// Where a task begins.
pub enum Origin {
    /// A request just taken.
    New(SandboxSpec),
    /// Sandbox that an earlier agent or a fork left: its ledger, and its machine when that still runs.
    Found(Box<Ledger>, Option<Arc<dyn Machine>>),
}

/// Owns a sandbox until it is gone.
pub async fn run(mut task: SandboxTask, origin: Origin) {
    let mut stage = match origin {
        Origin::New(spec) => LifeStage::Starting(spec),
        Origin::Found(ledger, machine) => adopted(&mut task, *ledger, machine).await,
    };
    loop {
        stage = match stage {
            LifeStage::Starting(spec) => starting(&mut task, spec).await,
            LifeStage::Running(sandbox, answer) => running(&mut task, *sandbox, answer).await,
            LifeStage::Paused(ledger) => paused(&mut task, *ledger).await,
            LifeStage::Crashed(ledger) => crashed(&mut task, *ledger).await,
            LifeStage::Failed => failed(&mut task).await,
            LifeStage::Gone => break,
        };
    }
    task.board.gone(task.id);
    tracing::info!(sandbox = %task.id, "{} is gone", task.id);
}
