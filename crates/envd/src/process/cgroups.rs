//! The cgroups processes are born into: `wrenn/user/N` for pipes, `wrenn/pty/N` for terminals, one each, reused.
//!
//! One per process, because that is the only way to end everything it started, whatever sessions those began. Terminals
//! get twice the processor's time of the rest when it is short, so that a person can still type `kill`.
//! Blocking, but the files are the kernel's memory. Must never: keep a process from starting.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wrenn_domain::limits::{GUEST_PROCESSES_MAX, PROCESS_CGROUPS_KEPT};
use wrenn_linux::cgroup::Cgroup;

/// Share of the processor of terminals, where 100 is usual.
const TERMINAL_WEIGHT: &str = "200";
/// Numbers tried for a new cgroup, when a former envd left some behind.
const NUMBERS_TRIED_MAX: u32 = 64;
/// Cgroups looked at whenever one is taken or given back.
const SWEPT_AT_ONCE: usize = 4;

/// Purpose of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    User,
    Terminal,
}

/// Cgroups of both kinds; none where the machine has no cgroups.
#[derive(Debug)]
pub struct Cgroups {
    pools: Option<[Pool; 2]>,
    refusal_logged: AtomicBool,
}

#[derive(Debug)]
struct Pool {
    dir: PathBuf,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    /// Empty, for the next process.
    free: Vec<Cgroup>,
    /// Cgroups whose process is over, but in which something it started may live on.
    lingering: VecDeque<Lingering>,
    made: u32,
}

#[derive(Debug)]
struct Lingering {
    cgroup: Cgroup,
    /// Not to be used again: some kernels kill whatever is born in a cgroup that was ever killed.
    spent: bool,
}

/// A process's cgroup. To be given back with [`Cgroups::give_back`]; dropped, it is left as it is.
#[derive(Debug)]
pub struct Slot {
    cgroup: Cgroup,
    kind: Kind,
    killed: AtomicBool,
}

impl Cgroups {
    /// Makes the two parents below `root`. Where that fails, processes stay where envd is; the log says so once.
    pub fn prepare(root: &Path) -> Self {
        let pools = Self::try_prepare(root).map_err(|error| {
            tracing::warn!(%error, root = %root.display(), "no cgroups: processes stay in envd's own");
        });
        Self { pools: pools.ok(), refusal_logged: AtomicBool::new(false) }
    }

    fn try_prepare(root: &Path) -> std::io::Result<[Pool; 2]> {
        let ours = Cgroup::open(&root.join("wrenn"))?;
        // Both are wishes: a root without controllers still has cgroups to kill.
        let weighed = ours.set("cgroup.subtree_control", "+cpu");
        let pool = |name: &str| -> std::io::Result<(Cgroup, Pool)> {
            let parent = Cgroup::open(&ours.path().join(name))?;
            let dir = parent.path().to_owned();
            Ok((parent, Pool { dir, groups: Mutex::default() }))
        };
        let (_, user) = pool("user")?;
        let (parent, terminal) = pool("pty")?;
        if let Err(error) = weighed.and_then(|()| parent.set("cpu.weight", TERMINAL_WEIGHT)) {
            tracing::debug!(%error, "terminals get no larger share of the processor");
        }
        Ok([user, terminal])
    }

    /// An empty cgroup for a new process, if there can be one.
    pub fn take(&self, kind: Kind) -> Option<Slot> {
        let cgroup = self.pool(kind)?.take()?;
        Some(Slot { cgroup, kind, killed: AtomicBool::new(false) })
    }

    /// The slot's process is over.
    pub fn give_back(&self, slot: Slot) {
        if let Some(pool) = self.pool(slot.kind) {
            pool.give_back(Lingering { cgroup: slot.cgroup, spent: slot.killed.into_inner() });
        }
    }

    /// The kernel would not start a process in it; the log says so once.
    pub fn refused(&self, slot: Slot) {
        if !self.refusal_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(cgroup = %slot.cgroup.path().display(), "processes cannot be started in cgroups");
        }
        slot.killed.store(true, Ordering::Relaxed);
        self.give_back(slot);
    }

    fn pool(&self, kind: Kind) -> Option<&Pool> {
        self.pools.as_ref().map(|[user, terminal]| match kind {
            Kind::User => user,
            Kind::Terminal => terminal,
        })
    }
}

impl Slot {
    /// Where the process is to be born.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Ends everything in it.
    ///
    /// # Errors
    /// Kernels before 5.14 cannot.
    pub fn kill(&self) -> std::io::Result<()> {
        self.killed.store(true, Ordering::Relaxed);
        self.cgroup.kill()
    }
}

impl Pool {
    fn take(&self) -> Option<Cgroup> {
        let mut groups = self.lock();
        if groups.free.is_empty() {
            groups.sweep();
        }
        if let Some(free) = groups.free.pop() {
            return Some(free);
        }
        // Two processes may share none, and what lingers is not without bound.
        if groups.lingering.len() >= GUEST_PROCESSES_MAX {
            return None;
        }
        for _ in 0..NUMBERS_TRIED_MAX {
            groups.made = groups.made.wrapping_add(1);
            match Cgroup::open(&self.dir.join(groups.made.to_string())) {
                Ok(new) if new.is_populated().is_ok_and(|populated| !populated) => return Some(new),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, directory = %self.dir.display(), "could not make a cgroup");
                    return None;
                }
            }
        }
        None
    }

    fn give_back(&self, cgroup: Lingering) {
        let mut groups = self.lock();
        // In front, to be looked at right now: most are empty.
        groups.lingering.push_front(cgroup);
        groups.sweep();
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Groups {
    /// Looks at the first few lingering ones, in turns: a user with a hundred daemons must not slow every command down.
    fn sweep(&mut self) {
        for _ in 0..SWEPT_AT_ONCE.min(self.lingering.len()) {
            let Some(lingering) = self.lingering.pop_front() else { return };
            if lingering.cgroup.is_populated().unwrap_or(true) {
                self.lingering.push_back(lingering);
            } else if !lingering.spent && self.free.len() < PROCESS_CGROUPS_KEPT {
                self.free.push(lingering.cgroup);
            } else if let Err(error) = lingering.cgroup.remove() {
                tracing::debug!(%error, cgroup = %lingering.cgroup.path().display(), "an empty cgroup was not removed");
            }
        }
    }
}
