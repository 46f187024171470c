//! The agent's tasks: each has a name, all end together, and a panic in one is heard of.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for tasks to be dropped at the end. They end at their next await, so this is reached only by one that blocks its thread.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Starts tasks and ends them. Clones share one set.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Starts a task. It is dropped at its next await when [`Tasks::stop`] is called, and never begins after that.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                // First: what is being stopped must not begin another step.
                biased;
                () = stop.cancelled() => {}
                ended = AssertUnwindSafe(work).catch_unwind() => {
                    if ended.is_err() {
                        tracing::error!(task = name, "the task {name} panicked; what it owned stays until the agent is started again");
                    }
                }
            }
        })
    }

    /// Drops every task and waits until all are gone, at most 5 s.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(STOP_WAIT, self.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.tracker.len(), "{} tasks do not end", self.tracker.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopping_drops_every_task_and_a_panic_in_one_leaves_the_others() {
        let tasks = Tasks::default();
        let (alive, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
        tasks.spawn("waiting", async move {
            let _alive = alive;
            std::future::pending().await
        });
        tasks.spawn("panicking", async { panic!("expected by this test") }).await.expect("the panic is caught");
        assert!(dropped.try_recv().is_err_and(|error| error == tokio::sync::mpsc::error::TryRecvError::Empty));
        tasks.stop().await;
        assert_eq!(dropped.recv().await, None, "the waiting task was dropped");
    }
}
