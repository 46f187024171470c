//! A copy of what a sandbox's memory is mapped over, made while nobody waits, so that its next capture begins with it: sharing a file
//! takes some 10 us for each of its pieces. The file has no name until a capture takes it, so it is gone with the sandbox or the agent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::blocking::blocking;
use crate::context::Context;
use crate::mutex::lock;
use crate::storage::{PreparedCopy, memory_path};

/// Age from which on a sandbox gets a copy: one that lives shorter is rarely captured.
const NOT_BEFORE: Duration = Duration::from_secs(1);

/// One sandbox's prepared copy, or the task that makes it. Dropping this drops the copy.
#[derive(Default)]
pub struct PreparedCopyTask(Mutex<Option<JoinHandle<Option<PreparedCopy>>>>);

impl PreparedCopyTask {
    /// Begins to make a copy of the memory base in the sandbox's directory, unless there is one or it is under way.
    pub fn begin(&self, ctx: &Arc<Context>, dir: PathBuf) {
        let mut task = lock(&self.0);
        if task.is_some() {
            return;
        }
        let ctx = Arc::clone(ctx);
        // Not one of the agent's named tasks: it belongs to its sandbox and is aborted with it.
        *task = Some(tokio::spawn(async move {
            tokio::time::sleep(NOT_BEFORE).await;
            ctx.start_load.wait_idle(true).await;
            // Without it the capture makes its own, and says what is wrong.
            blocking(move || PreparedCopy::make(&memory_path(&dir), || ctx.store.spare(0)).ok()).await
        }));
    }

    /// Takes the copy if there is one; one that is not made yet is given up.
    pub async fn take(&self) -> Option<PreparedCopy> {
        let task = lock(&self.0).take()?;
        if task.is_finished() {
            return task.await.ok()?;
        }
        task.abort();
        None
    }
}

impl Drop for PreparedCopyTask {
    fn drop(&mut self) {
        lock(&self.0).take().inspect(JoinHandle::abort);
    }
}
