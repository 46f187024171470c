//! The task that reads the inotify instance, and walks the trees that its events lead to.

use std::path::PathBuf;
use std::sync::Arc;

use super::hub::{Chore, Hub};
use super::tree::{self, Found};
use crate::disk::go_on;

/// Reads the instance for as long as envd lives.
pub(super) async fn read(hub: Arc<Hub>) {
    loop {
        match hub.read().await {
            Ok(events) => {
                for event in &events {
                    for chore in hub.take(event) {
                        work_off(&hub, chore).await;
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "inotify cannot be read; watchers hear nothing more");
                hub.close_all();
                return;
            }
        }
    }
}

async fn work_off(hub: &Arc<Hub>, chore: Chore) {
    let (watcher, below, found) = match chore {
        Chore::Descend { watcher, below } => (watcher, below, Found::Announced),
        Chore::Resume { watcher } => (watcher, PathBuf::new(), Found::Silently),
    };
    let Some(ground) = hub.ground(watcher) else { return };
    let walker = Arc::clone(hub);
    let walked = go_on(ground.actor, move || tree::watch(&walker, watcher, below, found)).await;
    if let Err(error) = walked {
        tracing::debug!(error = error.message(), "part of a watched tree cannot be watched");
        hub.lose(watcher);
    }
}
