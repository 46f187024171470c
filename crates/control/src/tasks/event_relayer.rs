//! Hands events from the outbox to the stream, oldest first. Killed between sending and noting it, it sends some again: receivers
//! tell by the id.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::EVENT_BATCH_MAX;

use crate::causes::chain;
use crate::context::Context;

/// Longest sleep between two looks: what other control planes write is found by then.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(ctx: Arc<Context>) {
    let mut warned = false;
    loop {
        match relay(&ctx).await {
            Ok(sent) => {
                if std::mem::take(&mut warned) {
                    tracing::info!("events reach Redis again");
                }
                if sent == EVENT_BATCH_MAX {
                    continue;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(error = chain(&*error), "events wait in the outbox");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        tokio::select! {
            () = ctx.outbox.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn relay(ctx: &Context) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let waiting = ctx.store.outbox_waiting(EVENT_BATCH_MAX).await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let ids: Vec<_> = waiting.iter().map(|event| event.id).collect();
    let payloads: Vec<_> = waiting.into_iter().map(|event| event.payload).collect();
    ctx.haste.events_append(&payloads).await?;
    ctx.store.outbox_relayed(&ids).await?;
    Ok(ids.len())
}
