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

use crate::string_enum::string_enum;

string_enum! {
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

string_enum! {
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
        PauseFailed = "pause_aborted",
        /// A user or traffic asks for a resume.
        Resume = "resume",
        /// The resume did not work; it stays paused.
        ResumeFailed = "resume_aborted",
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
    /// The state after `event`. Asking again for what already is (delete of a stopping sandbox) is lawful and changes nothing.
    ///
    /// # Errors
    /// [`Refused`] when the event is not lawful in this state. Both matches are full: a new state or event does not compile
    /// until its row is written.
    pub const fn after(self, event: SandboxEvent) -> Result<Self, Refused> {
        use SandboxEvent as E;
        use SandboxState as S;
        let refused = Err(Refused { state: self, event });
        Ok(match event {
            E::Ready => match self {
                S::Starting | S::Resuming | S::Running | S::Paused | S::Missing => S::Running,
                // The host may resume it meanwhile; where it goes back to is remembered beside the state.
                S::Snapshotting => S::Snapshotting,
                S::Pausing | S::Stopping | S::Stopped | S::Error => return refused,
            },
            E::Failed => match self {
                S::Starting => S::Error,
                S::Running | S::Pausing | S::Paused | S::Snapshotting | S::Resuming => return refused,
                S::Stopping | S::Missing | S::Stopped | S::Error => return refused,
            },
            E::Crashed => match self {
                S::Starting | S::Running | S::Pausing | S::Paused => S::Error,
                S::Snapshotting | S::Resuming | S::Missing => S::Error,
                S::Stopping | S::Stopped | S::Error => return refused,
            },
            E::Pause => match self {
                S::Running | S::Pausing => S::Pausing,
                S::Paused => S::Paused,
                S::Starting | S::Snapshotting | S::Resuming => return refused,
                S::Stopping | S::Missing | S::Stopped | S::Error => return refused,
            },
            E::PauseDone => match self {
                S::Starting | S::Running | S::Pausing | S::Paused | S::Resuming | S::Missing => S::Paused,
                // The host may pause it meanwhile; where it goes back to is remembered beside the state.
                S::Snapshotting => S::Snapshotting,
                S::Stopping | S::Stopped | S::Error => return refused,
            },
            E::PauseFailed => match self {
                S::Pausing => S::Running,
                S::Starting | S::Running | S::Paused | S::Snapshotting | S::Resuming => return refused,
                S::Stopping | S::Missing | S::Stopped | S::Error => return refused,
            },
            E::Resume => match self {
                S::Paused | S::Resuming | S::Error => S::Resuming,
                S::Running => S::Running,
                S::Starting | S::Pausing | S::Snapshotting => return refused,
                S::Stopping | S::Missing | S::Stopped => return refused,
            },
            E::ResumeFailed => match self {
                S::Resuming => S::Paused,
                S::Starting | S::Running | S::Pausing | S::Paused | S::Snapshotting => return refused,
                S::Stopping | S::Missing | S::Stopped | S::Error => return refused,
            },
            E::Snapshot => match self {
                S::Running | S::Paused => S::Snapshotting,
                S::Starting | S::Pausing | S::Snapshotting | S::Resuming => return refused,
                S::Stopping | S::Missing | S::Stopped | S::Error => return refused,
            },
            E::SnapshotDoneRunning | E::SnapshotDonePaused => match self {
                S::Snapshotting if matches!(event, E::SnapshotDonePaused) => S::Paused,
                S::Snapshotting => S::Running,
                S::Starting | S::Running | S::Pausing | S::Paused | S::Resuming => return refused,
                S::Stopping | S::Missing | S::Stopped | S::Error => return refused,
            },
            E::Delete => match self {
                S::Starting | S::Running | S::Pausing | S::Paused | S::Snapshotting => S::Stopping,
                S::Resuming | S::Stopping | S::Missing | S::Error => S::Stopping,
                S::Stopped => S::Stopped,
            },
            E::Gone => match self {
                S::Starting | S::Running | S::Pausing | S::Paused | S::Snapshotting => S::Stopped,
                S::Resuming | S::Stopping | S::Missing | S::Stopped => S::Stopped,
                S::Error => S::Error,
            },
            E::HostLost => match self {
                S::Starting | S::Running | S::Pausing => S::Missing,
                S::Snapshotting | S::Resuming | S::Missing => S::Missing,
                S::Paused | S::Stopping | S::Stopped | S::Error => return refused,
            },
        })
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
