//! A copy of what a sandbox's memory is mapped over, made while nobody waits, so that its next capture begins with it: sharing a file
//! takes some 10 us for each of its pieces. The file has no name until a capture takes it, so it is gone with the sandbox or the agent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::context::Context;
use crate::storage::BaseCopy;

/// What lives shorter is rarely captured.
const NOT_BEFORE: Duration = Duration::from_secs(1);

/// One sandbox's, if it is there.
#[derive(Default)]
pub struct Ahead(Mutex<Option<JoinHandle<Option<BaseCopy>>>>);

impl Ahead {
    /// Begins to make one, unless there is one or it is under way, of the base in the sandbox's directory.
    pub fn make(&self, ctx: &Arc<Context>, dir: PathBuf) {
        let mut there = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if there.is_some() {
            return;
        }
        let ctx = Arc::clone(ctx);
        *there = Some(tokio::spawn(async move {
            tokio::time::sleep(NOT_BEFORE).await;
            ctx.calm.come(true).await;
            let made = tokio::task::spawn_blocking(move || BaseCopy::make(&dir.join("memory"), || ctx.store.spare(0)));
            // Without it the capture makes its own, and says what is wrong.
            made.await.ok()?.ok()
        }));
    }

    /// What is there. One that is not made yet is not waited for.
    pub async fn take(&self) -> Option<BaseCopy> {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if task.is_finished() {
            return task.await.ok()?;
        }
        task.abort();
        None
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let task = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        task.inspect(JoinHandle::abort);
    }
}
