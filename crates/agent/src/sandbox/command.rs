//! What can be asked of the task that owns a sandbox.

use std::time::Duration;

use tokio::sync::oneshot;
use wrenn_domain::ids::SandboxId;

use crate::failure::{ErrorCode, Failure};

/// One request to a sandbox's task.
pub enum Command {
    /// Operation 0 is the time-out's.
    Pause {
        operation: u64,
    },
    Resume {
        operation: u64,
        /// The new time-out in seconds; absent, it stays as it is.
        timeout_sec: Option<u32>,
    },
    Capture(CaptureCommand),
}

/// A request for copies of a sandbox; whoever asks waits for the reply.
pub enum CaptureCommand {
    /// Made under an id of 32 hex digits.
    Snapshot { id: String, reply: oneshot::Sender<Result<Snapshot, Failure>> },
    /// Makes these children.
    Fork { children: Vec<SandboxId>, reply: oneshot::Sender<Result<Forked, Failure>> },
}

/// A snapshot that counts.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    pub bytes: u64,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    /// How long the source stood still; zero for a paused one.
    pub paused_for: Duration,
}

/// The children of a fork, with one result for each.
#[derive(Debug)]
pub struct Forked {
    pub children: Vec<(SandboxId, Result<(), Failure>)>,
    /// How long the source stood still; zero for a paused one.
    pub paused_for: Duration,
}

/// Answers a request for copies of a sandbox that cannot be captured now.
pub fn refuse_capture(command: CaptureCommand, why: &str) {
    let failure = || Failure::new(ErrorCode::InvalidState, why);
    // Whoever asked may have gone away meanwhile.
    match command {
        CaptureCommand::Snapshot { reply, .. } => drop(reply.send(Err(failure()))),
        CaptureCommand::Fork { reply, .. } => drop(reply.send(Err(failure()))),
    }
}
