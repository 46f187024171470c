//! What the agent says of a sandbox. Generations come from the host's revision, which never goes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tokio::sync::watch;
use wrenn_linux::files;

use crate::ledger::Wish;

/// Where a sandbox stands on this host.
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

/// A sandbox as the control plane hears of it.
#[derive(Debug, Clone)]
pub struct Report {
    pub wish: Wish,
    pub generation: u64,
    pub phase: Phase,
    /// Unix ms; of one found after a restart, when it was found.
    pub phase_since_ms: i64,
    pub started_at_ms: i64,
    pub last_active_at_ms: i64,
    pub metadata: BTreeMap<String, String>,
    /// Fit for the user to read.
    pub reason: String,
    /// One of the REST error codes.
    pub reason_code: &'static str,
    /// The newest pause or resume that is over, and why it did not work, if so.
    pub operation: u64,
    pub operation_error: String,
    pub operation_error_code: &'static str,
}

impl Report {
    /// Of a wish just taken.
    pub fn starting(wish: Wish) -> Self {
        Self {
            wish,
            generation: 0,
            phase: Phase::Starting,
            phase_since_ms: now_ms(),
            started_at_ms: 0,
            last_active_at_ms: 0,
            metadata: BTreeMap::new(),
            reason: String::new(),
            reason_code: "",
            operation: 0,
            operation_error: String::new(),
            operation_error_code: "",
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
    /// Goes on after everything a predecessor can have given out.
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

    /// The next one. Whoever waits is told only by [`Revision::publish`], after the change can be seen.
    pub fn next(&self) -> u64 {
        let mut reserved = self.reserved.lock().expect("no holder of this lock can panic");
        let next = *self.current.borrow() + 1;
        if next >= *reserved {
            *reserved = next + RESERVED;
            if let Err(error) = files::replace(&self.file, reserved.to_string().as_bytes()) {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot keep the host's revision");
            }
        }
        next
    }

    /// Tells everybody who waits.
    pub fn publish(&self, revision: u64) {
        self.current.send_if_modified(|current| {
            let newer = revision > *current;
            if newer {
                *current = revision;
            }
            newer
        });
    }

    /// To wait on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.current.subscribe()
    }
}

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
