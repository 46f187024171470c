//! How every background task is started: named, counted, and ended by the stop signal.

use std::future::Future;
use std::sync::Arc;

use crate::context::Context;

/// Starts one named, counted task that hears the stop signal.
pub(super) fn spawn(ctx: &Arc<Context>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let stop = ctx.stop.clone();
    ctx.tasks.spawn(async move {
        tokio::select! {
            // Stop first: a task that is always ready must still end.
            biased;
            () = stop.cancelled() => {}
            () = task => tracing::error!(task = name, "a background task ended by itself"),
        }
    });
}
