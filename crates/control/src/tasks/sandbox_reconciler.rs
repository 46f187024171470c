//! Finds hosts that fell silent; their sandboxes become missing until the host is heard of again.

use std::sync::Arc;
use std::time::Instant;

use crate::context::Context;
use crate::error_chain::chain;

pub(super) async fn run(ctx: Arc<Context>) {
    // Silence counts only while somebody could listen: after our own start, or after the database was away, a host gets the
    // full time to be heard again.
    let mut listening_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(ctx.tuning.reconcile_every).await;
        let since = match ctx.store.ping().await {
            Ok(()) => *listening_since.get_or_insert_with(Instant::now),
            Err(_) => {
                listening_since = None;
                continue;
            }
        };
        if since.elapsed() < ctx.tuning.host_silence {
            continue;
        }
        match ctx.store.host_mark_silent(ctx.tuning.host_silence).await {
            Ok(0) => {}
            Ok(missing) => tracing::warn!(missing, "{missing} sandboxes are missing: their host fell silent"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look for silent hosts now");
                listening_since = None;
            }
        }
    }
}
