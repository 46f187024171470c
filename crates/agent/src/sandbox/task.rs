//! The task that owns one sandbox: what it holds, and the tools that every phase of its life uses.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wrenn_domain::ids::SandboxId;
use wrenn_vmm::Machine;

use super::board::{Board, Mailbox, Running};
use super::command::Command;
use super::live::{PartialStart, RunningSandbox};
use super::pools::Pools;
use super::report::Phase;
use super::teardown::{mark_deleting, release_captures, release_partial, remove_files};
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::{Failure, cause};
use crate::guest::GuestClient;
use crate::ledger::{Ledger, SandboxSpec, settle};
use crate::network::Slot;
use crate::tasks::Tasks;

/// Has another sandbox, a fork's child whose ledger is on disk, taken over by a task of its own; false when its id was deleted.
pub type Adopt = Box<dyn Fn(Ledger) -> bool + Send + Sync>;

/// LifeStage is what comes next in a sandbox's life.
pub enum LifeStage {
    Starting(SandboxSpec),
    Running(Box<RunningSandbox>, Answer),
    Paused(Box<Ledger>),
    Crashed(Box<Ledger>),
    /// Nothing is left but the report.
    Failed,
    Gone,
}

/// The answer to a pause or resume, given when the stage it led to begins.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// 0 when nobody asked.
    pub operation: u64,
    pub failure: Option<Failure>,
}

impl Answer {
    /// Answers an operation that worked.
    pub fn done(operation: u64) -> Self {
        Self { operation, failure: None }
    }

    /// Answers an operation that did not work.
    pub fn failed(operation: u64, failure: Failure) -> Self {
        Self { operation, failure: Some(failure) }
    }
}

/// Next is what a task that waits for requests has to do.
pub enum Next {
    Delete,
    Command(Command),
    /// The agent ends.
    Stop,
}

/// One sandbox's task.
pub struct SandboxTask {
    pub ctx: Arc<Context>,
    pub pools: Arc<Pools>,
    pub board: Arc<Board>,
    pub adopt: Adopt,
    pub id: SandboxId,
    pub commands: mpsc::Receiver<Command>,
    pub delete: CancellationToken,
    tasks: Tasks,
    /// The way to the guest that was handed out.
    guest: Option<Arc<GuestClient>>,
    /// Work after the last start or pause: files are made safe on disk, or given back.
    background: Option<tokio::task::JoinHandle<()>>,
    /// Cancelled when the VMM of the last pause is gone, and its files.
    vmm_gone: CancellationToken,
}

impl SandboxTask {
    /// Makes the task of a sandbox that has been entered on the board.
    pub fn new(
        ctx: Arc<Context>,
        pools: Arc<Pools>,
        board: Arc<Board>,
        tasks: Tasks,
        adopt: Adopt,
        id: SandboxId,
        mailbox: Mailbox,
    ) -> Self {
        let Mailbox { commands, delete } = mailbox;
        let vmm_gone = CancellationToken::new();
        vmm_gone.cancel();
        Self { ctx, pools, board, adopt, id, commands, delete, tasks, guest: None, background: None, vmm_gone }
    }

    /// Returns the sandbox's directory.
    pub fn dir(&self) -> PathBuf {
        self.ctx.store.sandbox_dir(self.id)
    }

    /// Reports a phase.
    pub fn phase(&self, phase: Phase) {
        self.board.change(self.id, |report| report.phase = phase);
    }

    /// Reports a phase, and how the pause or resume that led to it ended.
    pub fn answer(&self, phase: Phase, answer: Answer) {
        self.board.change(self.id, |report| {
            report.phase = phase;
            if answer.operation > 0 {
                (report.operation, report.operation_failure) = (answer.operation, answer.failure);
            }
        });
    }

    /// Waits for a request to a sandbox that does not run.
    pub async fn next(&mut self) -> Next {
        tokio::select! {
            // A delete wins over a command of the same moment.
            biased;
            () = self.delete.cancelled() => Next::Delete,
            asked = self.commands.recv() => asked.map_or(Next::Stop, Next::Command),
        }
    }

    /// Lets others use the guest.
    pub fn hand_out(&mut self, sandbox: &RunningSandbox) {
        self.guest = Some(Arc::clone(&sandbox.guest));
        let running = Running { guest: Arc::clone(&sandbox.guest), machine: Arc::clone(&sandbox.machine) };
        self.board.set_running(self.id, Some(running));
        let ledger = &sandbox.ledger;
        self.board.change(self.id, |report| {
            report.phase = Phase::Running;
            report.spec = ledger.spec.clone();
            report.started_at_ms = ledger.started_at_ms;
            report.metadata = ledger.metadata.clone();
            report.reason = None;
        });
    }

    /// Breaks calls to the guest under way off: it will not even say that it is gone.
    pub fn disconnect(&mut self) {
        if let Some(guest) = self.guest.take() {
            guest.disconnect();
        }
    }

    /// Makes a start outlast a power cut, then removes what it started from. The sandbox was handed out already.
    pub fn settle_in_background(&mut self) {
        let (ctx, id, dir) = (Arc::clone(&self.ctx), self.id, self.dir());
        self.in_background(async move {
            let settled = blocking(move || {
                ctx.store.sync_sandbox_dirs()?;
                settle(&dir)?;
                release_captures(&ctx.store, &dir);
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            });
            if let Err(error) = settled.await {
                                tracing::error!(sandbox = %id, error = cause(&*error), "the start of {id} is not safe from a power cut");
            }
        });
    }

    /// Does what nobody waits for, one after another.
    pub fn in_background(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let before = self.background.take();
        self.background = Some(self.tasks.spawn("after a start or pause", async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            work.await;
        }));
    }

    /// Waits for what is done in the background: nothing else may be done to the sandbox's files meanwhile.
    pub async fn background_done(&mut self) {
        if let Some(background) = self.background.take() {
            let _ = background.await;
        }
    }

    /// Begins to wait for the end of a VMM; it has ended when the guard is dropped.
    pub fn vmm_is_ending(&mut self) -> tokio_util::sync::DropGuard {
        self.vmm_gone = CancellationToken::new();
        self.vmm_gone.clone().drop_guard()
    }

    /// Waits until the VMM of the last pause is gone.
    pub async fn vmm_gone(&self) {
        self.vmm_gone.cancelled().await;
    }

    /// Writes the ledger. A promise that cannot be written is logged; the state itself is true all the same.
    pub async fn write(&self, ledger: &Ledger) {
        let (ledger, dir, id) = (ledger.clone(), self.dir(), self.id);
        if let Err(error) = blocking(move || ledger.write(&dir)).await {
            tracing::error!(sandbox = %id, error = cause(&error), "the ledger of {id} cannot be written");
        }
    }

    /// Ends the sandbox and removes everything it has.
    pub async fn clear(&mut self, partial: PartialStart) {
        self.disconnect();
        self.background_done().await;
        self.board.set_running(self.id, None);
        mark_deleting(&self.ctx, self.id).await;
        release_partial(&self.ctx, partial).await;
        remove_files(&self.ctx, self.id).await;
    }

    /// Ends a running sandbox and removes everything it has.
    pub async fn clear_running(&mut self, slot: Box<dyn Slot>, machine: Arc<dyn Machine>) {
        self.clear(PartialStart { slot: Some(slot), machine: Some(machine), ..PartialStart::default() }).await;
    }

    /// Reports that the sandbox was never made, and why.
    pub fn report_failed(&self, failure: Failure) {
        self.board.change(self.id, |report| {
            report.phase = Phase::Failed;
            report.reason = Some(failure);
        });
    }
}

/// Takes a new time-out over, if one was given.
pub fn set_timeout(ledger: &mut Ledger, timeout_sec: Option<u32>) {
    if let Some(timeout_sec) = timeout_sec {
        ledger.spec.timeout_sec = timeout_sec;
    }
}
