//! Hands events from the outbox to the stream, oldest first. Killed between sending and noting it, it sends some again: receivers
//! tell by the id.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::EVENT_BATCH_MAX;

use crate::causes::chain;
use crate::context::Context;
use crate::fault::FaultPoint;

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
    let Some(taken) = ctx.store.outbox_take(EVENT_BATCH_MAX).await? else { return Ok(0) };
    // Each is owed to its team's channels since it was written: this only says so.
    ctx.channel_queues.wake();
    ctx.faults.reach(FaultPoint::EventsTaken).await;
    ctx.haste.events_append(&taken.payloads).await?;
    ctx.faults.reach(FaultPoint::EventsAppended).await;
    let sent = taken.payloads.len();
    taken.note().await?;
    Ok(sent)
}
