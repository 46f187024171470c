//! The way in to all sandboxes of this host: takes requests, and starts the task that owns each sandbox.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::names::TemplateName;
use wrenn_vmm::Machine;

use super::board::{Board, Mailbox, Running, Touch};
use super::command::{CaptureCommand, Command, Forked, Snapshot};
use super::fork::forked_before;
use super::lifecycle::{self, Origin};
use super::metrics::{Metrics, disk_bytes};
use super::pools::Pools;
use super::refusal::Refusal;
use super::report::{Phase, Report, Revision};
use super::rings::Point;
use super::task::{Adopt, SandboxTask};
use crate::blocking::blocking;
use crate::context::Context;
use crate::host;
use crate::ledger::{Ledger, SandboxSpec};
use crate::storage::StorageError;
use crate::storage::captures::discard;
use crate::tasks::Tasks;

/// All sandboxes of one host, and what their tasks share.
pub struct Registry {
    pub ctx: Arc<Context>,
    pub pools: Arc<Pools>,
    pub board: Arc<Board>,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    /// Lets tasks have others adopted without knowing this registry.
    itself: Weak<Self>,
}

/// Used is what a sandbox used lately.
pub struct Used {
    /// Oldest first.
    pub points: Vec<Point>,
    /// Bytes of its disk, now; 0 when it has none yet.
    pub disk_bytes: u64,
}

impl Registry {
    /// Makes a registry that knows no sandbox.
    pub fn new(ctx: Arc<Context>, revision: Revision, tasks: Tasks) -> Arc<Self> {
        let pools = Arc::new(Pools::new(ctx.config.warm_vms_max, ctx.driver.prestart().is_some()));
        let board = Arc::new(Board::new(revision, host::memory_total_mib()));
        let metrics = Arc::default();
        Arc::new_cyclic(|itself| Self { ctx, pools, board, metrics, tasks, itself: itself.clone() })
    }

    /// Takes a request for a new sandbox and returns at once; the same id again gets the present report.
    ///
    /// # Errors
    /// The request is not valid, the host has no room or template for it, or the id was deleted.
    pub async fn create(&self, spec: SandboxSpec) -> Result<Report, Refusal> {
        let id = spec.id;
        if let Some(report) = self.board.present(id)? {
            return Ok(report);
        }
        let (ctx, checked) = (Arc::clone(&self.ctx), spec.clone());
        blocking(move || admit_files(&ctx, &checked)).await?;
        self.board.admit_memory(id, spec.memory_mib)?;
        let Some(mailbox) = self.board.enter(spec.clone()) else {
            return self.board.present(id)?.ok_or(Refusal::Deleted);
        };
        let report = self.board.report(id).ok_or(Refusal::NotFound)?;
        self.start_task(id, Origin::New(spec), mailbox);
        Ok(report)
    }

    /// Takes over what an earlier agent or a fork left: running ones with their machine, the others as their ledger says.
    /// Returns false when the id is known already: above all when it was deleted before it was made.
    pub fn adopt(&self, ledger: Ledger, machine: Option<Arc<dyn Machine>>) -> bool {
        let id = ledger.spec.id;
        let Some(mailbox) = self.board.enter(ledger.spec.clone()) else { return false };
        self.start_task(id, Origin::Found(Box::new(ledger), machine), mailbox);
        true
    }

    fn start_task(&self, id: SandboxId, origin: Origin, mailbox: Mailbox) {
        let itself = self.itself.clone();
        let adopt: Adopt = Box::new(move |ledger| {
            // Without a registry the agent is ending, and the next one finds the ledger.
            itself.upgrade().is_none_or(|registry| registry.adopt(ledger, None))
        });
        let (ctx, pools, board) = (Arc::clone(&self.ctx), Arc::clone(&self.pools), Arc::clone(&self.board));
        let task = SandboxTask::new(ctx, pools, board, self.tasks.clone(), adopt, id, mailbox);
        self.tasks.spawn("sandbox", lifecycle::run(task, origin));
    }

    /// Asks for a pause and returns at once; the report says how it ended.
    ///
    /// # Errors
    /// There is no such sandbox, or its task has too much to do.
    pub fn pause(&self, id: SandboxId, operation: u64) -> Result<Report, Refusal> {
        self.board.ask(id, operation, Command::Pause { operation })
    }

    /// Asks for a resume and returns at once; the report says how it ended.
    ///
    /// # Errors
    /// There is no such sandbox, or its task has too much to do.
    pub fn resume(&self, id: SandboxId, operation: u64, timeout_sec: Option<u32>) -> Result<Report, Refusal> {
        self.board.ask(id, operation, Command::Resume { operation, timeout_sec })
    }

    /// Captures a sandbox under a name of the caller's; returns when that counts.
    ///
    /// # Errors
    /// There is no such sandbox, it is not in a state to be captured, or the capture failed.
    pub async fn snapshot(&self, id: SandboxId, name: String) -> Result<Snapshot, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.board.send(id, Command::Capture(CaptureCommand::Snapshot { id: name, reply }))?;
        answer.await.map_err(|_| Refusal::NotFound)?.map_err(Refusal::Failed)
    }

    /// Removes a snapshot; one that is not there is no error.
    ///
    /// # Errors
    /// Its files do not go.
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), Refusal> {
        let (store, path) = (self.ctx.store.clone(), self.ctx.store.snapshot_dir(name));
        blocking(move || discard(&store, &path)).await.map_err(Refusal::Storage)
    }

    /// Makes children of a sandbox, all from one instant; returns when each is on disk. While one of them is there no second
    /// instant is taken.
    ///
    /// # Errors
    /// There is no such sandbox, it is not in a state to be captured, or the capture failed.
    pub async fn fork(&self, id: SandboxId, children: Vec<SandboxId>) -> Result<Forked, Refusal> {
        // Here too, because the source may be gone by now.
        if let Some(forked) = forked_before(&self.board, &children) {
            return Ok(forked);
        }
        let (reply, answer) = oneshot::channel();
        self.board.send(id, Command::Capture(CaptureCommand::Fork { children, reply }))?;
        answer.await.map_err(|_| Refusal::NotFound)?.map_err(Refusal::Failed)
    }

    /// Asks for the end of a sandbox and returns at once. One never heard of leaves a tombstone.
    pub fn delete(&self, id: SandboxId) -> Report {
        self.board.delete(id)
    }

    /// Returns the present report of one sandbox.
    pub fn report(&self, id: SandboxId) -> Option<Report> {
        self.board.report(id)
    }

    /// Returns the reports of all sandboxes and their revision; see [`Board::list`].
    pub async fn list(&self, since: u64, wait: Duration) -> (u64, Vec<Report>) {
        self.board.list(since, wait).await
    }

    /// Returns the running sandbox of this id, counted as used now.
    ///
    /// # Errors
    /// There is no such sandbox, or it does not run.
    pub fn running(&self, id: SandboxId) -> Result<(Running, Touch), Refusal> {
        self.board.running(id)
    }

    /// Returns what a sandbox used in the last `span_secs`, and what its disk uses.
    ///
    /// # Errors
    /// There is no such sandbox, or it was never made.
    pub async fn used(&self, id: SandboxId, span_secs: u32) -> Result<Used, Refusal> {
        match self.board.report(id).map(|report| report.phase) {
            None | Some(Phase::Gone | Phase::Failed) => return Err(Refusal::NotFound),
            Some(_) => {}
        }
        let (metrics, store, dir) = (Arc::clone(&self.metrics), self.ctx.store.clone(), self.ctx.store.sandbox_dir(id));
        let used = move || Used { points: metrics.last(id, &dir, span_secs), disk_bytes: disk_bytes(&store, &dir) };
        Ok(blocking(used).await)
    }
}

/// Checks a request against what is on the disk. Blocks.
fn admit_files(ctx: &Context, spec: &SandboxSpec) -> Result<(), Refusal> {
    spec.template.parse::<TemplateName>().map_err(|error| Refusal::Invalid(error.message))?;
    match &spec.snapshot {
        Some(id) if !ctx.store.snapshot_dir(id).exists() => return Err(Refusal::NoTemplate(id.clone())),
        Some(_) => {}
        None => admit_image(ctx, spec)?,
    }
    match ctx.store.admit() {
        Err(error @ StorageError::Full { .. }) => Err(Refusal::NoCapacity(error.to_string())),
        other => other.map_err(Refusal::Storage),
    }
}

fn admit_image(ctx: &Context, spec: &SandboxSpec) -> Result<(), Refusal> {
    let image = ctx.images.get(&spec.template).map_err(|_| Refusal::NoTemplate(spec.template.clone()))?;
    if u64::from(spec.disk_mib) << 20 < image.bytes {
        let error = StorageError::TooSmall { min_mib: image.bytes.div_ceil(1 << 20), asked_mib: spec.disk_mib };
        return Err(Refusal::Invalid(error.to_string()));
    }
    Ok(())
}
