//! All sandboxes of this host: who exists, what is said of them, and the way to the task that owns each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{LIST_WAIT_MAX, SANDBOXES_PER_HOST_MAX, TOMBSTONE_KEPT};
use wrenn_domain::names::TemplateName;
use wrenn_vmm::Machine;

use super::command::{self, Command, Forked, Snapshot};
use super::metrics::{Metrics, Subject, disk_bytes};
use super::report::{Phase, Report, Revision, now_ms};
use super::rings::Point;
use super::runner::{self, Origin};
use crate::context::Context;
use crate::guest::GuestClient;
use crate::host;
use crate::ledger::{Ledger, Wish};
use crate::storage::StorageError;

/// MiB of host memory that are never given to guests.
const MEMORY_RESERVE_MIB: u64 = 1024;

/// Counts as a sign of life of whoever uses a sandbox.
pub type Touch = Arc<dyn Fn() + Send + Sync>;

/// Wishes waiting for one sandbox's task; a user who asks for more than this at once is told to wait.
const COMMANDS_MAX: usize = 16;

/// Why a wish is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no such sandbox on this host")]
    NotFound,
    #[error("the sandbox is not running")]
    NotRunning,
    #[error("the sandbox was deleted before it was made")]
    Deleted,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NoRoom(String),
    #[error("there is no template {0} on this host")]
    NoTemplate(String),
    #[error("the guest does not answer")]
    Unresponsive,
    #[error("the sandbox has too much to do already; try again")]
    Busy,
    /// A snapshot or fork did not come about: text and code for the user.
    #[error("{0}")]
    Refused(String, &'static str),
    #[error("the host failed")]
    Storage(#[source] StorageError),
}

/// What others need of a running sandbox.
#[derive(Clone)]
pub struct Running {
    pub guest: Arc<GuestClient>,
    pub machine: Arc<dyn Machine>,
}

pub(super) struct Entry {
    report: Report,
    running: Option<Running>,
    /// Set to ask the owning task to delete everything.
    pub(super) delete: CancellationToken,
    active_at_ms: Arc<AtomicI64>,
    /// The way to the owning task.
    commands: mpsc::Sender<Command>,
    /// The newest pause or resume that was asked for: one that was overtaken on its way must not cross it.
    asked: u64,
    /// When a gone one is forgotten.
    forget_at: Option<Instant>,
}

/// The registry.
pub struct Registry {
    pub ctx: Arc<Context>,
    entries: Mutex<HashMap<SandboxId, Entry>>,
    revision: Revision,
    pub(super) metrics: Metrics,
}

/// What a sandbox used lately.
pub struct Used {
    /// Oldest first.
    pub points: Vec<Point>,
    /// Of its disk, now; 0 when it has none yet.
    pub disk_bytes: u64,
}

impl Registry {
    /// An empty one.
    pub fn new(ctx: Arc<Context>, revision: Revision) -> Arc<Self> {
        Arc::new(Self { ctx, entries: Mutex::default(), revision, metrics: Metrics::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Entry>> {
        self.entries.lock().expect("no holder of this lock can panic")
    }

    /// Takes a wish and answers at once; the same id again gets the present report.
    pub fn create(self: &Arc<Self>, wish: Wish) -> Result<Report, Refusal> {
        let id = wish.id;
        if let Some(report) = self.present(id)? {
            return Ok(report);
        }
        self.admit(&wish)?;
        let report = {
            let mut entries = self.lock();
            if entries.contains_key(&id) {
                drop(entries);
                return self.present(id)?.ok_or(Refusal::Deleted);
            }
            let (entry, commands) = Entry::new(Report::starting(wish.clone()));
            entries.insert(id, entry);
            drop(entries);
            let report = self.change(id, |_| {}).ok_or(Refusal::NotFound)?;
            runner::spawn(self, id, Origin::Wish(wish), commands);
            report
        };
        Ok(report)
    }

    /// Takes over what a predecessor or a fork left: running ones with their machine, the others as their ledger says.
    pub(super) fn adopt(self: &Arc<Self>, ledger: Ledger, machine: Option<Arc<dyn Machine>>) {
        let id = ledger.wish.id;
        let (entry, commands) = Entry::new(Report::starting(ledger.wish.clone()));
        self.lock().insert(id, entry);
        self.change(id, |_| {});
        runner::spawn(self, id, Origin::Found(Box::new(ledger), machine), commands);
    }

    /// Asks for a pause and answers at once; the report says how it ended.
    pub fn pause(&self, id: SandboxId, operation: u64) -> Result<Report, Refusal> {
        self.ask(id, operation, Command::Pause { operation })
    }

    /// Asks for a resume and answers at once; the report says how it ended.
    pub fn resume(&self, id: SandboxId, operation: u64, timeout_sec: Option<u32>) -> Result<Report, Refusal> {
        self.ask(id, operation, Command::Resume { operation, timeout_sec })
    }

    /// Writes a sandbox down under a name; returns when that counts.
    pub async fn snapshot(&self, id: SandboxId, name: String) -> Result<Snapshot, Refusal> {
        let (tell, answer) = oneshot::channel();
        self.send(id, Command::Snapshot { id: name, tell })?;
        answer.await.map_err(|_| Refusal::NotFound)?.map_err(|(text, code)| Refusal::Refused(text, code))
    }

    /// Makes children of a sandbox, all from one instant; returns when each is on disk. While one of them is there no second
    /// instant is taken.
    pub async fn fork(&self, id: SandboxId, children: Vec<SandboxId>) -> Result<Forked, Refusal> {
        // Here too, because the source may be gone by now.
        if let Some(forked) = command::forked_before(self, &children) {
            return Ok(forked);
        }
        let (tell, answer) = oneshot::channel();
        self.send(id, Command::Fork { children, tell })?;
        answer.await.map_err(|_| Refusal::NotFound)?.map_err(|(text, code)| Refusal::Refused(text, code))
    }

    /// The present report of one sandbox.
    pub fn report(&self, id: SandboxId) -> Option<Report> {
        self.lock().get(&id).map(Entry::shown)
    }

    fn ask(&self, id: SandboxId, operation: u64, command: Command) -> Result<Report, Refusal> {
        let (report, asked) = {
            let entries = self.lock();
            let entry = entries.get(&id).filter(|e| e.report.phase != Phase::Gone).ok_or(Refusal::NotFound)?;
            (entry.shown(), entry.asked)
        };
        // Asked again after it was answered, or overtaken by a newer wish: what there is stands.
        if operation > report.operation && operation >= asked {
            self.send(id, command)?;
            if let Some(entry) = self.lock().get_mut(&id) {
                entry.asked = entry.asked.max(operation);
            }
        }
        Ok(report)
    }

    /// Which of these are there.
    pub(super) fn known(&self, ids: &[SandboxId]) -> Vec<bool> {
        let entries = self.lock();
        ids.iter().map(|id| entries.contains_key(id)).collect()
    }

    fn send(&self, id: SandboxId, command: Command) -> Result<(), Refusal> {
        let commands = {
            let entries = self.lock();
            let entry = entries.get(&id).filter(|e| e.report.phase != Phase::Gone).ok_or(Refusal::NotFound)?;
            entry.commands.clone()
        };
        commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::NotFound,
        })
    }

    /// Unix ms of the last sign of life of anybody who uses the sandbox.
    pub(super) fn active_at_ms(&self, id: SandboxId) -> i64 {
        self.lock().get(&id).map_or(0, |entry| entry.active_at_ms.load(Ordering::Relaxed))
    }

    /// The sandbox is in use.
    pub(super) fn touch(&self, id: SandboxId) {
        if let Some(entry) = self.lock().get(&id) {
            entry.active_at_ms.store(now_ms(), Ordering::Relaxed);
        }
    }

    fn present(&self, id: SandboxId) -> Result<Option<Report>, Refusal> {
        match self.lock().get(&id) {
            None => Ok(None),
            Some(entry) if entry.report.phase == Phase::Gone => Err(Refusal::Deleted),
            Some(entry) => Ok(Some(entry.shown())),
        }
    }

    fn admit(&self, wish: &Wish) -> Result<(), Refusal> {
        wish.template.parse::<TemplateName>().map_err(|error| Refusal::Invalid(error.message))?;
        match &wish.snapshot {
            Some(id) if !self.ctx.store.snapshot_dir(id).exists() => return Err(Refusal::NoTemplate(id.clone())),
            Some(_) => {}
            None => self.admit_image(wish)?,
        }
        match self.ctx.store.admit() {
            Err(error @ StorageError::Full { .. }) => return Err(Refusal::NoRoom(error.to_string())),
            other => other.map_err(Refusal::Storage)?,
        }
        self.admit_memory(wish.id, wish.memory_mib)
    }

    fn admit_image(&self, wish: &Wish) -> Result<(), Refusal> {
        let image = self.ctx.images.get(&wish.template).map_err(|_| Refusal::NoTemplate(wish.template.clone()))?;
        if u64::from(wish.disk_mib) << 20 < image.bytes {
            let error = StorageError::TooSmall { min_mib: image.bytes.div_ceil(1 << 20), asked_mib: wish.disk_mib };
            return Err(Refusal::Invalid(error.to_string()));
        }
        Ok(())
    }

    /// Refuses what the host's memory does not hold; the sandbox itself is not counted against it.
    pub(super) fn admit_memory(&self, id: SandboxId, memory_mib: u32) -> Result<(), Refusal> {
        let entries = self.lock();
        let holds = |phase| matches!(phase, Phase::Starting | Phase::Running | Phase::Pausing | Phase::Resuming);
        let living = entries.iter().filter(|(other, e)| **other != id && holds(e.report.phase)).map(|(_, e)| e);
        let (count, used) =
            living.fold((0usize, 0u64), |(n, mib), e| (n + 1, mib + u64::from(e.report.wish.memory_mib)));
        let total = host::memory_total_mib().saturating_sub(MEMORY_RESERVE_MIB);
        if used + u64::from(memory_mib) > total {
            return Err(Refusal::NoRoom(format!(
                "the host has {} MiB of memory left for capsules",
                total.saturating_sub(used)
            )));
        }
        if count >= SANDBOXES_PER_HOST_MAX {
            return Err(Refusal::NoRoom(format!("the host runs {SANDBOXES_PER_HOST_MAX} capsules, as many as it may")));
        }
        Ok(())
    }

    /// Asks for the end of a sandbox and answers at once. One never heard of leaves a tombstone.
    pub fn delete(self: &Arc<Self>, id: SandboxId) -> Report {
        let known = {
            let mut entries = self.lock();
            match entries.get(&id) {
                Some(entry) => {
                    entry.delete.cancel();
                    Some((entry.shown(), entry.report.phase))
                }
                None => {
                    let wish = Wish {
                        id,
                        template: String::new(),
                        vcpus: 0,
                        memory_mib: 0,
                        disk_mib: 0,
                        timeout_sec: 0,
                        default_user: String::new(),
                        default_env: std::collections::BTreeMap::new(),
                        snapshot: None,
                    };
                    // Nobody listens at the other end: there is nothing to command.
                    entries.insert(id, Entry::new(Report::starting(wish)).0);
                    None
                }
            }
        };
        match known {
            None => self.gone(id),
            Some((report, Phase::Gone | Phase::Stopping)) => report,
            Some((report, _)) => self.change(id, |report| report.phase = Phase::Stopping).unwrap_or(report),
        }
    }

    /// Notes that nothing is left; the id is remembered a while so that a late create cannot bring it back.
    pub(super) fn gone(self: &Arc<Self>, id: SandboxId) -> Report {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.running = None;
            entry.forget_at = Some(Instant::now() + TOMBSTONE_KEPT);
        }
        let report = self.change(id, |report| report.phase = Phase::Gone);
        report.expect("an entry is forgotten only long after it is gone")
    }

    /// Reports of all, and the revision they belong to. With `since` it waits for something newer, at most `wait`.
    pub async fn list(&self, since: u64, wait: Duration) -> (u64, Vec<Report>) {
        if since > 0 {
            let mut news = self.revision.subscribe();
            let _ = tokio::time::timeout(wait.min(LIST_WAIT_MAX), news.wait_for(|now| *now > since)).await;
        }
        let mut entries = self.lock();
        let now = Instant::now();
        entries.retain(|_, entry| entry.forget_at.is_none_or(|at| at > now));
        let revision = *self.revision.subscribe().borrow();
        (revision, entries.values().map(Entry::shown).collect())
    }

    /// The running sandbox of this id, counted as active now.
    pub fn running(&self, id: SandboxId) -> Result<(Running, Touch), Refusal> {
        let entries = self.lock();
        let entry = entries.get(&id).filter(|e| e.report.phase != Phase::Gone).ok_or(Refusal::NotFound)?;
        let running = entry.running.clone().ok_or(Refusal::NotRunning)?;
        let active = Arc::clone(&entry.active_at_ms);
        active.store(now_ms(), Ordering::Relaxed);
        Ok((running, Arc::new(move || active.store(now_ms(), Ordering::Relaxed))))
    }

    /// Those whose VMM runs.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let running = |(id, entry): (&SandboxId, &Entry)| {
            let running = entry.running.as_ref()?;
            let pid = running.machine.record().process.pid;
            Some(Subject { id: *id, pid, vcpus: entry.report.wish.vcpus, dir: self.ctx.store.sandbox_dir(*id) })
        };
        self.lock().iter().filter_map(running).collect()
    }

    /// What a sandbox used in the last `span_secs`.
    pub fn used(&self, id: SandboxId, span_secs: u32) -> Result<Used, Refusal> {
        let is_there = self.lock().get(&id).is_some_and(|e| !matches!(e.report.phase, Phase::Gone | Phase::Failed));
        if !is_there {
            return Err(Refusal::NotFound);
        }
        let dir = self.ctx.store.sandbox_dir(id);
        Ok(Used { points: self.metrics.last(id, &dir, span_secs), disk_bytes: disk_bytes(&dir) })
    }

    /// Writes down what is known of what sandboxes used, for the next agent.
    pub fn keep_metrics(&self) {
        self.metrics.keep_all();
    }

    /// Changes a report; the new one is out when this returns.
    pub(super) fn change(&self, id: SandboxId, change: impl FnOnce(&mut Report)) -> Option<Report> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id)?;
        let before = entry.report.phase;
        change(&mut entry.report);
        if entry.report.phase != before {
            entry.report.phase_since_ms = now_ms();
        }
        let revision = self.revision.next();
        entry.report.generation = revision;
        let shown = entry.shown();
        // Published while the list is locked: nobody can see the revision without the change.
        self.revision.publish(revision);
        Some(shown)
    }

    pub(super) fn set_running(&self, id: SandboxId, running: Option<Running>) {
        if let Some(entry) = self.lock().get_mut(&id) {
            if running.is_some() {
                entry.active_at_ms.store(now_ms(), Ordering::Relaxed);
            }
            entry.running = running;
        }
    }

    pub(super) fn delete_token(&self, id: SandboxId) -> CancellationToken {
        self.lock().get(&id).map(|entry| entry.delete.clone()).unwrap_or_default()
    }
}

impl Entry {
    fn new(report: Report) -> (Self, mpsc::Receiver<Command>) {
        let (commands, listener) = mpsc::channel(COMMANDS_MAX);
        let entry = Self {
            report,
            running: None,
            delete: CancellationToken::new(),
            active_at_ms: Arc::default(),
            commands,
            asked: 0,
            forget_at: None,
        };
        (entry, listener)
    }

    fn shown(&self) -> Report {
        let mut report = self.report.clone();
        report.last_active_at_ms = self.active_at_ms.load(Ordering::Relaxed);
        report
    }
}
