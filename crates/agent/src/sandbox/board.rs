//! What is known of every sandbox of this host: its report, the way to its task, and whether there is room for more. Starts no task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wrenn_domain::host_reserve::memory_for_guests_mib;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{LIST_WAIT_MAX, SANDBOXES_PER_HOST_MAX, TOMBSTONE_KEPT};
use wrenn_vmm::Machine;

use super::command::Command;
use super::refusal::Refusal;
use super::report::{Phase, Report, Revision, now_ms};
use crate::guest::GuestClient;
use crate::ledger::SandboxSpec;
use crate::mutex::lock;

/// Notes that a sandbox is still used.
pub type Touch = Arc<dyn Fn() + Send + Sync>;

/// Requests waiting for one sandbox's task; a user who asks for more than this at once has to wait.
const COMMANDS_MAX: usize = 16;

/// Running is what others need of a running sandbox.
#[derive(Clone)]
pub struct Running {
    pub guest: Arc<GuestClient>,
    pub machine: Arc<dyn Machine>,
}

/// Mailbox is what a sandbox's task gets from its entry.
pub struct Mailbox {
    pub commands: mpsc::Receiver<Command>,
    /// Cancelled to ask the task to delete everything.
    pub delete: CancellationToken,
}

struct Entry {
    report: Report,
    running: Option<Running>,
    delete: CancellationToken,
    active_at_ms: Arc<AtomicI64>,
    commands: mpsc::Sender<Command>,
    /// The newest pause or resume that was asked for: one that was overtaken on its way must not cross it.
    asked: u64,
    /// When the tombstone of a gone one is forgotten.
    forget_at: Option<Instant>,
}

/// All sandboxes of one host.
pub struct Board {
    entries: Mutex<HashMap<SandboxId, Entry>>,
    revision: Revision,
    /// MiB of guest memory that this host may promise in all.
    memory_mib: u64,
}

impl Board {
    /// Makes an empty board of a host with `memory_total_mib` of memory.
    pub fn new(revision: Revision, memory_total_mib: u64) -> Self {
        Self { entries: Mutex::default(), revision, memory_mib: memory_for_guests_mib(memory_total_mib) }
    }

    /// Returns the MiB of guest memory that this host may promise in all.
    pub fn memory_for_guests_mib(&self) -> u64 {
        self.memory_mib
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SandboxId, Entry>> {
        lock(&self.entries)
    }

    /// Enters a sandbox that is starting; `None` when its id is there already.
    pub fn enter(&self, spec: SandboxSpec) -> Option<Mailbox> {
        let id = spec.id;
        let (entry, mailbox) = Entry::new(Report::starting(spec));
        {
            let mut entries = self.entries();
            if entries.contains_key(&id) {
                return None;
            }
            entries.insert(id, entry);
        }
        self.change(id, |_| {});
        Some(mailbox)
    }

    /// Returns the report of a sandbox that is not gone; `None` when its id is not known.
    ///
    /// # Errors
    /// It was deleted.
    pub fn present(&self, id: SandboxId) -> Result<Option<Report>, Refusal> {
        match self.entries().get(&id) {
            None => Ok(None),
            Some(entry) if entry.report.phase == Phase::Gone => Err(Refusal::Deleted),
            Some(entry) => Ok(Some(entry.shown())),
        }
    }

    /// Returns the present report of one sandbox, gone or not.
    pub fn report(&self, id: SandboxId) -> Option<Report> {
        self.entries().get(&id).map(Entry::shown)
    }

    /// Whether each of these ids is known, in their order.
    pub fn known(&self, ids: &[SandboxId]) -> Vec<bool> {
        let entries = self.entries();
        ids.iter().map(|id| entries.contains_key(id)).collect()
    }

    /// Asks a sandbox's task for a pause or resume, unless that was answered or a newer one was asked for. Returns the present report.
    ///
    /// # Errors
    /// There is no such sandbox, or its task has too much to do.
    pub fn ask(&self, id: SandboxId, operation: u64, command: Command) -> Result<Report, Refusal> {
        let mut entries = self.entries();
        let entry = present_entry(&mut entries, id)?;
        let report = entry.shown();
        // Asked again after it was answered, or overtaken by a newer request: what there is stands.
        if operation > report.operation && operation >= entry.asked {
            entry.send(command)?;
            entry.asked = operation;
        }
        Ok(report)
    }

    /// Hands a request to a sandbox's task.
    ///
    /// # Errors
    /// There is no such sandbox, or its task has too much to do.
    pub fn send(&self, id: SandboxId, command: Command) -> Result<(), Refusal> {
        present_entry(&mut self.entries(), id)?.send(command)
    }

    /// Returns the Unix ms at which somebody last used the sandbox; 0 when it is not known.
    pub fn active_at_ms(&self, id: SandboxId) -> i64 {
        self.entries().get(&id).map_or(0, |entry| entry.active_at_ms.load(Ordering::Relaxed))
    }

    /// Notes that the sandbox is in use.
    pub fn touch(&self, id: SandboxId) {
        if let Some(entry) = self.entries().get(&id) {
            entry.active_at_ms.store(now_ms(), Ordering::Relaxed);
        }
    }

    /// Refuses what the host's memory does not hold; the sandbox itself is not counted against it.
    ///
    /// # Errors
    /// The memory that may be promised, or the number of sandboxes a host may run, is used up.
    pub fn admit_memory(&self, id: SandboxId, memory_mib: u32) -> Result<(), Refusal> {
        let entries = self.entries();
        let living = entries.iter().filter(|(other, e)| **other != id && e.report.phase.holds_memory());
        let (count, used) =
            living.fold((0usize, 0u64), |(n, mib), (_, e)| (n + 1, mib + u64::from(e.report.spec.memory_mib)));
        if used + u64::from(memory_mib) > self.memory_mib {
            let left = self.memory_mib.saturating_sub(used);
            return Err(Refusal::NoCapacity(format!("the host has {left} MiB of memory left for capsules")));
        }
        if count >= SANDBOXES_PER_HOST_MAX {
            let text = format!("the host runs {SANDBOXES_PER_HOST_MAX} capsules, as many as it may");
            return Err(Refusal::NoCapacity(text));
        }
        Ok(())
    }

    /// Asks for the end of a sandbox and returns its report. One never heard of leaves a tombstone.
    pub fn delete(&self, id: SandboxId) -> Report {
        let known = {
            let mut entries = self.entries();
            match entries.get(&id) {
                Some(entry) => {
                    entry.delete.cancel();
                    Some((entry.shown(), entry.report.phase))
                }
                None => {
                    // No task has the mailbox: there is nothing to command.
                    entries.insert(id, Entry::new(Report::starting(SandboxSpec::empty(id))).0);
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

    /// Notes that nothing is left of a sandbox; its id is remembered a while so that a late create cannot bring it back.
    pub fn gone(&self, id: SandboxId) -> Report {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.running = None;
            entry.forget_at = Some(Instant::now() + TOMBSTONE_KEPT);
        }
        let report = self.change(id, |report| report.phase = Phase::Gone);
        report.expect("an entry is forgotten only long after it is gone")
    }

    /// Returns the reports of all sandboxes and the revision they belong to. With `since` it waits for something newer, at most `wait`.
    pub async fn list(&self, since: u64, wait: Duration) -> (u64, Vec<Report>) {
        if since > 0 {
            let mut changed = self.revision.subscribe();
            let _ = tokio::time::timeout(wait.min(LIST_WAIT_MAX), changed.wait_for(|now| *now > since)).await;
        }
        let mut entries = self.entries();
        let now = Instant::now();
        entries.retain(|_, entry| entry.forget_at.is_none_or(|at| at > now));
        let revision = *self.revision.subscribe().borrow();
        (revision, entries.values().map(Entry::shown).collect())
    }

    /// Returns the running sandbox of this id, counted as used now.
    ///
    /// # Errors
    /// There is no such sandbox, or it does not run.
    pub fn running(&self, id: SandboxId) -> Result<(Running, Touch), Refusal> {
        let mut entries = self.entries();
        let entry = present_entry(&mut entries, id)?;
        let running = entry.running.clone().ok_or(Refusal::NotRunning)?;
        let active = Arc::clone(&entry.active_at_ms);
        active.store(now_ms(), Ordering::Relaxed);
        Ok((running, Arc::new(move || active.store(now_ms(), Ordering::Relaxed))))
    }

    /// Returns the id, machine and number of vCPUs of every sandbox that runs.
    pub fn machines(&self) -> Vec<(SandboxId, Arc<dyn Machine>, u32)> {
        let running = |(id, entry): (&SandboxId, &Entry)| {
            Some((*id, Arc::clone(&entry.running.as_ref()?.machine), entry.report.spec.vcpus))
        };
        self.entries().iter().filter_map(running).collect()
    }

    /// Changes a report; the new one can be seen by everybody when this returns.
    pub fn change(&self, id: SandboxId, change: impl FnOnce(&mut Report)) -> Option<Report> {
        let mut entries = self.entries();
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

    /// Notes how the sandbox is called from now on; `None`: not at all.
    pub fn set_running(&self, id: SandboxId, running: Option<Running>) {
        if let Some(entry) = self.entries().get_mut(&id) {
            if running.is_some() {
                entry.active_at_ms.store(now_ms(), Ordering::Relaxed);
            }
            entry.running = running;
        }
    }
}

fn present_entry(entries: &mut HashMap<SandboxId, Entry>, id: SandboxId) -> Result<&mut Entry, Refusal> {
    entries.get_mut(&id).filter(|entry| entry.report.phase != Phase::Gone).ok_or(Refusal::NotFound)
}

impl Entry {
    fn new(report: Report) -> (Self, Mailbox) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let delete = CancellationToken::new();
        let mailbox = Mailbox { commands: receiver, delete: delete.clone() };
        let (active_at_ms, running) = (Arc::default(), None);
        (Self { report, running, delete, active_at_ms, commands, asked: 0, forget_at: None }, mailbox)
    }

    fn send(&self, command: Command) -> Result<(), Refusal> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::NotFound,
        })
    }

    fn shown(&self) -> Report {
        let mut report = self.report.clone();
        report.last_active_at_ms = self.active_at_ms.load(Ordering::Relaxed);
        report
    }
}
