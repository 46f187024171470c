//! Writes gathered marks of use: activity every few seconds, the use of keys and sessions once a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error_chain::chain;

const SANDBOXES_EVERY: Duration = Duration::from_secs(5);
const KEYS_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(ctx: Arc<Context>) {
    let mut keys_at = Instant::now();
    // The first use of a key shows soon, so that people see that it works.
    let mut first = true;
    loop {
        tokio::time::sleep(SANDBOXES_EVERY).await;
        let sandboxes = ctx.touches.take_sandboxes();
        let keys_due = first || keys_at.elapsed() >= KEYS_EVERY;
        let keys = if keys_due { ctx.touches.take_keys() } else { Vec::new() };
        let sessions = if keys_due { ctx.touches.take_sessions() } else { Vec::new() };
        if !keys.is_empty() || !sessions.is_empty() {
            (first, keys_at) = (false, Instant::now());
        }
        let written = async {
            if !sandboxes.is_empty() {
                ctx.store.sandbox_touch(&sandboxes).await?;
            }
            if !keys.is_empty() {
                ctx.store.key_touch(&keys).await?;
            }
            if !sessions.is_empty() {
                ctx.store.session_touch(&sessions).await?;
            }
            Ok::<_, wrenn_store::StoreError>(())
        };
        if let Err(error) = written.await {
            tracing::debug!(error = %chain(&error), "marks of use are lost");
        }
    }
}
