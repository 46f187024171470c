//! Hands events from the outbox to the stream, oldest first. Killed between sending and noting it, it sends some again: receivers
//! tell by the id.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::EVENT_BATCH_MAX;

use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::service::redis_entries;

/// Longest sleep between two looks: what other control planes write is found by then.
const POLL_EVERY: Duration = Duration::from_secs(1);

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
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        tokio::select! {
            () = ctx.outbox.notified() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
}

/// Key that the codes of events in the stream are bound to.
pub(super) const EVENTS_KEY: &str = "events";

async fn relay(ctx: &Context) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let Some(taken) = ctx.store.outbox_take(EVENT_BATCH_MAX).await? else { return Ok(0) };
    // Each is owed to its team's channels since it was written: this only says so.
    ctx.queues.notifications.wake();
    ctx.faults.reach(FaultPoint::EventsTaken).await;
    let mut signed = Vec::with_capacity(taken.payloads.len());
    for payload in &taken.payloads {
        signed.push(redis_entries::sign(ctx, EVENTS_KEY, payload).await?);
    }
    ctx.redis.events_append(&signed).await?;
    ctx.faults.reach(FaultPoint::EventsAppended).await;
    let sent = taken.payloads.len();
    taken.note().await?;
    Ok(sent)
}
