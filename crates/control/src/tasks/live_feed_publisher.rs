//! Tells those who watch what happened, soon after it did.
//!
//! ```text
//! a write here ----> look here, and say over Redis that there is something to see
//! said over Redis -> look here
//! neither ---------> look all the same, after a while
//! ```
//! What there is to see is in the database; a signal that is lost only makes it later.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::MOVES_KEPT;

use crate::context::Context;
use crate::error_chain::chain;
use crate::service::events;

/// Between two looks while nobody says anything.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// Between two words to others; what happens meanwhile is seen by the same look.
const SAY_EVERY: Duration = Duration::from_millis(5);
/// Pause before a broken connection is made again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(ctx: Arc<Context>) {
    // None of them ends.
    tokio::join!(publish(&ctx), notify_others(&ctx), listen(&ctx), sweep(&ctx));
}

async fn publish(ctx: &Context) {
    let mut warned = false;
    loop {
        tokio::select! {
            () = ctx.feed.changed.notified() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
        match events::publish(ctx).await {
            Ok(()) => warned = false,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(error = %chain(&error), "cannot tell what happens now; it is told later");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn notify_others(ctx: &Context) {
    let mut writes = ctx.store.writes();
    while writes.changed().await.is_ok() {
        ctx.feed.changed.notify_one();
        if let Err(error) = ctx.redis.live_notify(&ctx.owner.to_string()).await {
            tracing::debug!(error = %chain(&error), "other control planes will see it when they look");
            tokio::time::sleep(POLL_EVERY).await;
        }
        tokio::time::sleep(SAY_EVERY).await;
    }
}

async fn listen(ctx: &Context) {
    let own = ctx.owner.to_string();
    loop {
        let heard = ctx.redis.live_subscribe(|from| {
            if from != own {
                ctx.feed.changed.notify_one();
            }
        });
        if let Err(error) = heard.await {
            tracing::debug!(error = %chain(&error), "cannot hear of other control planes' news now");
        }
        ctx.feed.changed.notify_one();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn sweep(ctx: &Context) {
    loop {
        tokio::time::sleep(MOVES_KEPT / 2).await;
        if let Err(error) = ctx.store.live_sweep(MOVES_KEPT).await {
            tracing::debug!(error = %chain(&error), "cannot forget old changes of state now");
        }
    }
}
