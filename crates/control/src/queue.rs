//! Hints for background work: what became due. Every hint may be lost, and the work is found by its due time all the same.

use std::sync::Mutex;

use tokio::sync::mpsc;
use wrenn_domain::ids::{ChannelId, JobId, OutboundJobId, SandboxId};
use wrenn_store::pg::{ChannelWork, Job, OutboundJob, PlacedSandbox};

use crate::sync::lock;

/// Hints one queue holds at most; work beyond them is found by its due time.
const QUEUE_MAX: usize = 1024;

/// A reason to look for work.
pub(crate) enum Hint<Id, Row> {
    /// A piece that is leased to this process already.
    Ours(Box<Row>),
    /// A piece that somebody made due.
    Due(Id),
    /// Anything may have become due.
    Any,
}

/// The way into a task. It never waits: when the queue is full the work is found by its lease or its due time.
pub struct WorkQueue<Id, Row> {
    to: mpsc::Sender<Hint<Id, Row>>,
    from: Mutex<Option<mpsc::Receiver<Hint<Id, Row>>>>,
}

impl<Id, Row> Default for WorkQueue<Id, Row> {
    fn default() -> Self {
        let (to, from) = mpsc::channel(QUEUE_MAX);
        Self { to, from: Mutex::new(Some(from)) }
    }
}

impl<Id, Row> WorkQueue<Id, Row> {
    /// Hands over a piece that is leased to this process.
    pub fn hand_over(&self, row: Row) {
        let _ = self.to.try_send(Hint::Ours(Box::new(row)));
    }

    /// Wakes the task for a piece that became due.
    pub fn wake_for(&self, id: Id) {
        let _ = self.to.try_send(Hint::Due(id));
    }

    /// Wakes the task for anything that may have become due.
    pub fn wake(&self) {
        let _ = self.to.try_send(Hint::Any);
    }

    /// The sending end, for a hint that is to come later.
    pub(crate) fn sender(&self) -> mpsc::Sender<Hint<Id, Row>> {
        self.to.clone()
    }

    /// Takes the receiving end; none when a task has it already.
    pub(crate) fn take_receiver(&self) -> Option<mpsc::Receiver<Hint<Id, Row>>> {
        lock(&self.from).take()
    }
}

/// Queues of all background work of a process.
#[derive(Default)]
pub struct Queues {
    /// Sandboxes to be started.
    pub starts: WorkQueue<SandboxId, PlacedSandbox>,
    /// Sandboxes to be stopped.
    pub stops: WorkQueue<SandboxId, PlacedSandbox>,
    /// Sandboxes to be paused.
    pub pauses: WorkQueue<SandboxId, PlacedSandbox>,
    /// Sandboxes to be resumed.
    pub resumes: WorkQueue<SandboxId, PlacedSandbox>,
    /// Snapshots to be written.
    pub snapshots: WorkQueue<JobId, Job>,
    /// Snapshots to be removed.
    pub discards: WorkQueue<JobId, Job>,
    /// Forks to be made.
    pub forks: WorkQueue<JobId, Job>,
    /// Mails to be sent.
    pub mails: WorkQueue<OutboundJobId, OutboundJob>,
    /// Ends of accounts that hooks are to hear of.
    pub account_hooks: WorkQueue<OutboundJobId, OutboundJob>,
    /// Notification channels with events to be sent.
    pub notifications: WorkQueue<ChannelId, ChannelWork>,
}

impl Queues {
    /// Wakes every task for anything that may have become due.
    pub fn wake_all(&self) {
        for queue in [&self.starts, &self.stops, &self.pauses, &self.resumes] {
            queue.wake();
        }
        for queue in [&self.snapshots, &self.discards, &self.forks] {
            queue.wake();
        }
        for queue in [&self.mails, &self.account_hooks] {
            queue.wake();
        }
        self.notifications.wake();
    }
}
