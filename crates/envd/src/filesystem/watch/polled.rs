//! Watchers whose clients come and ask. One that is not asked for long is dropped, so that a client that forgot or
//! crashed leaves nothing behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::event::Event;
use super::watched::Watch;

/// See the module.
pub(super) struct Polled {
    idle_max: Duration,
    watchers: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    watch: Watch,
    asked: Instant,
    /// The task that drops it in time.
    reaper: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

impl Polled {
    pub fn new(idle_max: Duration) -> Self {
        Self { idle_max, watchers: Mutex::default() }
    }

    /// Takes a watcher in and returns its id.
    pub fn keep(this: &Arc<Self>, watch: Watch) -> String {
        let id = format!("w-{:016x}", watch.id);
        let reaper = tokio::spawn(reap(Arc::clone(this), id.clone())).abort_handle();
        this.lock().insert(id.clone(), Entry { watch, asked: Instant::now(), reaper });
        id
    }

    /// Takes out what happened.
    pub fn events(&self, id: &str) -> Option<Vec<Event>> {
        let mut watchers = self.lock();
        let entry = watchers.get_mut(id)?;
        entry.asked = Instant::now();
        Some(entry.watch.queue.take().into())
    }

    /// False when there is none.
    pub fn remove(&self, id: &str) -> bool {
        // Dropped after the lock is released: taking back a tree's watches takes a moment.
        let entry = self.lock().remove(id);
        entry.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the watcher has been idle for too long. One timer per watcher, set anew only when it rings.
async fn reap(polled: Arc<Polled>, id: String) {
    let mut due = Instant::now() + polled.idle_max;
    loop {
        sleep_until(due).await;
        let Some(asked) = polled.lock().get(&id).map(|entry| entry.asked) else { return };
        due = asked + polled.idle_max;
        if due <= Instant::now() {
            tracing::info!(watcher = id, "a watcher nobody asked for was dropped");
            polled.remove(&id);
            return;
        }
    }
}
