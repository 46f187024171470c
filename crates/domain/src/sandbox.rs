//! The sandbox's state machine as the control plane keeps it. One law: [`SandboxState::after`].
//!
//! ```text
//! starting --ready--> running --pause--> pausing --paused--> paused --resume--> resuming --ready--> running
//!    |                   |  \--snapshot--> snapshotting --captured--> (back)
//!    |failed             |lost                         any living --delete--> stopping --gone--> stopped*
//!    v                   v
//!  error*  <--crashed  missing --seen--> running | paused | --gone--> stopped*       (* terminal)
//!    \--resume--> resuming: only where the disk was kept, which the row knows and this law does not
//! ```
//!
//! A fork changes nothing of its source; each child begins as starting. A host's own news (ready, paused, crashed) is lawful
//! from every state in which the host may have moved on while nobody listened.

use crate::words::words;

words! {
    /// Where a sandbox stands.
    SandboxState {
        /// Wanted; its host is making it.
        Starting = "starting",
        /// Usable.
        Running = "running",
        /// On its way to paused.
        Pausing = "pausing",
        /// Memory and disk on disk, nothing running.
        Paused = "paused",
        /// Being captured while it goes on, or from paused.
        Snapshotting = "snapshotting",
        /// On its way back from paused.
        Resuming = "resuming",
        /// Delete accepted; its host is clearing up.
        Stopping = "stopping",
        /// Its host is away; it may still run there.
        Missing = "missing",
        /// Gone for good.
        Stopped = "stopped",
        /// Failed or crashed; the row's error says why. Delete releases what is kept; a kept disk can be booted again.
        Error = "error",
    }
}

words! {
    /// What can happen to a sandbox.
    SandboxEvent {
        /// The host reports it ready.
        Ready = "ready",
        /// The host could not make it.
        Failed = "failed",
        /// Its VM ended by itself.
        Crashed = "crashed",
        /// A user or a time-out asks for a pause.
        Pause = "pause",
        /// The host reports it paused.
        PauseDone = "pause_done",
        /// The pause did not work; it runs on.
        PauseFailed = "pause_failed",
        /// A user or traffic asks for a resume.
        Resume = "resume",
        /// The resume did not work; it stays paused.
        ResumeFailed = "resume_failed",
        /// A user asks for a snapshot.
        Snapshot = "snapshot",
        /// Captured or not, a snapshot of a running sandbox is over.
        SnapshotDoneRunning = "snapshot_done_running",
        /// Captured or not, a snapshot of a paused sandbox is over.
        SnapshotDonePaused = "snapshot_done_paused",
        /// A user asks for its end.
        Delete = "delete",
        /// The host reports that nothing is left.
        Gone = "gone",
        /// Its host has not been heard of for too long.
        HostLost = "host_lost",
    }
}

/// Why an event is not lawful in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {state} cannot take {event}")]
pub struct Refused {
    pub state: SandboxState,
    pub event: SandboxEvent,
}

impl SandboxState {
    /// The state after `event`, or a refusal. Asking again for what already is (delete of a stopping sandbox) is
    /// lawful and changes nothing.
    pub const fn after(self, event: SandboxEvent) -> Result<Self, Refused> {
        use SandboxEvent as E;
        use SandboxState as S;
        let next = match (self, event) {
            (S::Starting | S::Resuming | S::Running | S::Paused | S::Missing, E::Ready) => S::Running,
            (S::Starting, E::Failed) => S::Error,
            (
                S::Starting | S::Running | S::Pausing | S::Paused | S::Snapshotting | S::Resuming | S::Missing,
                E::Crashed,
            ) => S::Error,
            (S::Running, E::Pause) | (S::Pausing, E::Pause) => S::Pausing,
            (S::Paused, E::Pause) => S::Paused,
            (S::Starting | S::Running | S::Pausing | S::Paused | S::Resuming | S::Missing, E::PauseDone) => S::Paused,
            (S::Pausing, E::PauseFailed) => S::Running,
            (S::Paused | S::Resuming | S::Error, E::Resume) => S::Resuming,
            (S::Running, E::Resume) => S::Running,
            (S::Resuming, E::ResumeFailed) => S::Paused,
            (S::Running | S::Paused, E::Snapshot) => S::Snapshotting,
            // The host may pause or crash it meanwhile; where it goes back to is remembered beside the state.
            (S::Snapshotting, E::Ready | E::PauseDone) => S::Snapshotting,
            (S::Snapshotting, E::SnapshotDoneRunning) => S::Running,
            (S::Snapshotting, E::SnapshotDonePaused) => S::Paused,
            (
                S::Starting
                | S::Running
                | S::Pausing
                | S::Paused
                | S::Snapshotting
                | S::Resuming
                | S::Stopping
                | S::Missing
                | S::Error,
                E::Delete,
            ) => S::Stopping,
            (S::Stopped, E::Delete) => S::Stopped,
            (
                S::Starting
                | S::Running
                | S::Pausing
                | S::Paused
                | S::Snapshotting
                | S::Resuming
                | S::Stopping
                | S::Missing,
                E::Gone,
            ) => S::Stopped,
            (S::Stopped, E::Gone) => S::Stopped,
            (S::Error, E::Gone) => S::Error,
            (S::Starting | S::Running | S::Pausing | S::Snapshotting | S::Resuming | S::Missing, E::HostLost) => {
                S::Missing
            }
            (state, event) => return Err(Refused { state, event }),
        };
        Ok(next)
    }

    /// Nothing follows but a delete of what is kept, or another boot of a kept disk.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_as_agreed() {
        let mut table = String::new();
        for state in SandboxState::ALL {
            for event in SandboxEvent::ALL {
                if let Ok(next) = state.after(*event) {
                    table.push_str(&format!("{state} + {event} -> {next}\n"));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn every_word_parses_back() {
        for state in SandboxState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
    }
}
