//! Runs the workers of extensions. One that panics or ends is started again after a pause, which grows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::spawn::spawn;
use crate::context::Context;
use crate::extension::context::ServerContext;
use crate::extension::plugin::Worker;
use crate::panics;

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Starts every worker of every extension.
pub(super) fn spawn_all(ctx: &Arc<Context>) {
    let server = ServerContext::new(ctx.clone());
    for extension in &ctx.extensions {
        let made = std::panic::catch_unwind(AssertUnwindSafe(|| extension.background_workers(&server)));
        match made {
            Ok(workers) => {
                for worker in workers {
                    spawn(ctx, worker.name, keep(server.clone(), worker));
                }
            }
            Err(panic) => {
                let what = panics::message(&*panic);
                tracing::error!(extension = extension.name(), what, "its workers cannot be made: it panicked");
            }
        }
    }
}

async fn keep(server: ServerContext, worker: Worker) {
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        // The future is made inside: making it may panic as well.
        let run = async { (worker.run)(server.clone()).await };
        match AssertUnwindSafe(run).catch_unwind().await {
            Ok(()) => tracing::warn!(worker = worker.name, "a worker ended; it is started again"),
            Err(panic) => {
                tracing::error!(
                    worker = worker.name,
                    what = panics::message(&*panic),
                    "a worker panicked; it is started again"
                );
            }
        }
        pause = if began.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}
