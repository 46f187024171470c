//! What the agent reports of a sandbox. Generations come from the host's revision, which never goes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tokio::sync::watch;
use wrenn_linux::files;

use crate::failure::{Failure, cause};
use crate::ledger::SandboxSpec;
use crate::mutex::lock;

/// Phase of a sandbox's life on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Running,
    Stopping,
    Gone,
    Failed,
    Crashed,
    Pausing,
    Paused,
    Resuming,
}

impl Phase {
    /// Whether a sandbox in this phase has memory of the host, or is about to.
    pub fn holds_memory(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Pausing | Self::Resuming => true,
            Self::Stopping | Self::Gone | Self::Failed | Self::Crashed | Self::Paused => false,
        }
    }
}

/// A sandbox as the control plane hears of it.
#[derive(Debug, Clone)]
pub struct Report {
    pub spec: SandboxSpec,
    pub generation: u64,
    pub phase: Phase,
    /// Unix ms; of one found after a restart, when it was found.
    pub phase_since_ms: i64,
    pub started_at_ms: i64,
    pub last_active_at_ms: i64,
    pub metadata: BTreeMap<String, String>,
    /// Why it failed or crashed, if so.
    pub reason: Option<Failure>,
    /// The newest pause or resume that is over; 0 when there was none.
    pub operation: u64,
    /// Why that pause or resume did not work, if so.
    pub operation_failure: Option<Failure>,
}

impl Report {
    /// Makes the report of a sandbox whose request was just taken.
    pub fn starting(spec: SandboxSpec) -> Self {
        Self {
            spec,
            generation: 0,
            phase: Phase::Starting,
            phase_since_ms: now_ms(),
            started_at_ms: 0,
            last_active_at_ms: 0,
            metadata: BTreeMap::new(),
            reason: None,
            operation: 0,
            operation_failure: None,
        }
    }
}

/// Revisions reserved on disk at once: a crash skips what is left of them.
const RESERVED: u64 = 1 << 20;

/// The host's revision: grows with every change, also over restarts.
pub struct Revision {
    file: PathBuf,
    reserved: Mutex<u64>,
    current: watch::Sender<u64>,
}

impl Revision {
    /// Goes on after every revision that earlier agents on this directory can have given out.
    ///
    /// # Errors
    /// Its file can be neither read nor written.
    pub fn load(dir: &Path) -> std::io::Result<Self> {
        let file = dir.join("revision");
        let last: u64 = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        // The clock as a second net, should the file be lost.
        let begin = last.max(u64::try_from(now_ms()).unwrap_or(0)) + 1;
        files::replace(&file, (begin + RESERVED).to_string().as_bytes())?;
        Ok(Self { file, reserved: Mutex::new(begin + RESERVED), current: watch::Sender::new(begin) })
    }

    /// Returns the next revision. Waiters hear of it only by [`Revision::publish`], after the change can be seen.
    pub fn next(&self) -> u64 {
        let mut reserved = lock(&self.reserved);
        let next = *self.current.borrow() + 1;
        if next >= *reserved {
            *reserved = next + RESERVED;
            if let Err(error) = files::replace(&self.file, reserved.to_string().as_bytes()) {
                tracing::error!(error = cause(&error), "cannot keep the host's revision");
            }
        }
        next
    }

    /// Lets everybody who waits see a revision.
    pub fn publish(&self, revision: u64) {
        self.current.send_if_modified(|current| {
            let newer = revision > *current;
            if newer {
                *current = revision;
            }
            newer
        });
    }

    /// Returns the revision as something to wait on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.current.subscribe()
    }
}

/// Returns the host's clock in Unix milliseconds.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
