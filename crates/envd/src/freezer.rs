//! The freezer: every process but envd stands still from before a capture until this guest is known to be itself again.
//!
//! What comes along in a capture's memory would otherwise run in every copy before `/init` gave it entropy, clock, token and names of
//! its own. Processes are stopped as cgroups (version 2): all below the root but the one envd is in; what was loose in the root is
//! moved into `wrenn/system` before. The list of what was stopped is part of the captured memory, so a copy knows what to release.
//!
//! ```text
//! running --freeze(n), n > released--> frozen(n) --/init of a new life, or release(m >= n)--> running
//! ```
//! Must never: end a freeze by itself. Envd cannot tell the guest that was captured from a copy of it (decisions/0016).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wrenn_linux::cgroup::{Cgroup, is_kernel_thread};

/// Time processes get to stop. A process that runs stops in microseconds; one inside the kernel, waiting for a device, stops when that
/// is over, and before any code of its own.
const STOP_WAIT_MAX: Duration = Duration::from_millis(250);
/// Between two looks whether all have stopped.
const STOP_POLL: Duration = Duration::from_millis(1);
/// Passes over the root's processes: each finds what the former ones left, which are children of processes being moved.
const GATHER_PASSES_MAX: u32 = 8;
/// Cgroups below the root that are frozen at most; more than any program makes there.
const CGROUPS_MAX: usize = 1024;

/// Whose processes are frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the machine's but envd's own.
    Machine,
    /// Processes envd started: outside a guest the rest is not ours.
    Ours,
}

/// A freeze was refused: it arrived after the release that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("freeze {number} came after the release of {released}")]
pub struct Outdated {
    number: u64,
    released: u64,
}

/// Cgroups that are frozen, and which freezes are over.
#[derive(Debug)]
pub struct Freezer {
    root: PathBuf,
    scope: Scope,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the latest freeze.
    number: u64,
    /// The largest number that was released in this life.
    released: u64,
    /// Cgroups this freezer froze; those a user froze himself are not among them.
    frozen: Vec<Cgroup>,
}

impl Freezer {
    /// A freezer of the cgroups below `root`, a cgroup version 2 directory. Nothing is frozen yet.
    pub fn new(root: &Path, scope: Scope) -> Self {
        Self { root: root.to_owned(), scope, state: Mutex::default() }
    }

    /// Moves processes that are in no cgroup of their own to where they can be frozen; they stay there. Blocking, but the files are the
    /// kernel's memory. What cannot be moved is logged.
    pub fn gather(&self) {
        if self.scope == Scope::Ours {
            return;
        }
        for _ in 0..GATHER_PASSES_MAX {
            match self.gather_once() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    return tracing::warn!(%error, "processes outside cgroups cannot be frozen");
                }
            }
        }
        tracing::warn!("new processes outside cgroups keep coming; some may not be frozen");
    }

    /// Moves those that are loose now. Returns how many there were.
    fn gather_once(&self) -> io::Result<usize> {
        let loose: Vec<u32> = fs::read_to_string(self.root.join("cgroup.procs"))?
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 1 && *pid != std::process::id() && !is_kernel_thread(*pid))
            .collect();
        if loose.is_empty() {
            return Ok(0);
        }
        let ours = Cgroup::open(&self.root.join("wrenn"))?;
        let system = Cgroup::open(&ours.path().join("system"))?;
        for pid in &loose {
            match system.add(*pid) {
                // It ended meanwhile.
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(loose.len())
    }

    /// Stops everything in scope. Returns at once; [`Freezer::late`] says what has not stopped yet.
    ///
    /// # Errors
    /// [`Outdated`] when that freeze was released before it came.
    pub fn freeze(&self, number: u64) -> Result<(), Outdated> {
        let mut state = self.state();
        if number <= state.released {
            return Err(Outdated { number, released: state.released });
        }
        state.number = state.number.max(number);
        for cgroup in self.cgroups() {
            let known = state.frozen.iter().any(|frozen| frozen.path() == cgroup.path());
            if known || cgroup.is_freeze_requested().unwrap_or(true) {
                continue;
            }
            match cgroup.set_frozen(true) {
                Ok(()) => state.frozen.push(cgroup),
                Err(error) => tracing::warn!(%error, cgroup = %cgroup.path().display(), "cannot freeze"),
            }
        }
        Ok(())
    }

    /// Waits until all have stopped, for at most [`STOP_WAIT_MAX`]. Returns the names of the cgroups that have not.
    pub async fn late(&self) -> Vec<String> {
        let began = Instant::now();
        loop {
            let late: Vec<String> = {
                let state = self.state();
                let moving = state.frozen.iter().filter(|cgroup| !cgroup.is_frozen().unwrap_or(true));
                moving.map(|cgroup| cgroup.path().display().to_string()).collect()
            };
            if late.is_empty() || began.elapsed() > STOP_WAIT_MAX {
                return late;
            }
            tokio::time::sleep(STOP_POLL).await;
        }
    }

    /// Lets everything go on, for a guest that has become a new one. Freezes are numbered anew.
    ///
    /// # Errors
    /// A cgroup could not be thawed; it is tried again by the next call.
    pub fn release_all(&self) -> io::Result<()> {
        let mut state = self.state();
        (state.number, state.released) = (0, 0);
        thaw(&mut state)
    }

    /// Lets everything go on if the latest freeze is this one or a former one, and refuses freezes up to it from now on.
    ///
    /// # Errors
    /// A cgroup could not be thawed; it is tried again by the next call.
    pub fn release(&self, number: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.number > number {
            return Ok(());
        }
        state.released = state.released.max(number);
        thaw(&mut state)
    }

    /// Every cgroup right below the root but the one envd is in; outside a guest only that of our processes.
    fn cgroups(&self) -> Vec<Cgroup> {
        let own = own_cgroup();
        let paths: Vec<PathBuf> = match self.scope {
            Scope::Ours => vec![self.root.join("wrenn")],
            Scope::Machine => {
                let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
                entries.map(|entry| entry.path()).filter(|path| path.is_dir()).take(CGROUPS_MAX).collect()
            }
        };
        let is_own = |path: &Path| path.file_name().is_some_and(|name| own.as_deref() == Some(Path::new(name)));
        let others = paths.into_iter().filter(|path| path.is_dir() && !is_own(path));
        others.filter_map(|path| Cgroup::open(&path).ok()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn thaw(state: &mut State) -> io::Result<()> {
    while let Some(cgroup) = state.frozen.pop() {
        match cgroup.set_frozen(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                state.frozen.push(cgroup);
                return Err(error);
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// First directory of the cgroup envd is in; none when that is the root.
fn own_cgroup() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let first = path.split('/').next().filter(|first| !first.is_empty())?;
    Some(PathBuf::from(first))
}
