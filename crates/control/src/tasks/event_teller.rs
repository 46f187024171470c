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

use crate::causes::chain;
use crate::context::Context;
use crate::service::events;

/// Between two looks while nobody says anything.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two words to others; what happens meanwhile is seen by the same look.
const SAY_EVERY: Duration = Duration::from_millis(5);
/// Pause before a broken connection is made again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(ctx: Arc<Context>) {
    // None of them ends.
    tokio::join!(tell(&ctx), say(&ctx), hear(&ctx), forget(&ctx));
}

async fn tell(ctx: &Context) {
    let mut warned = false;
    loop {
        tokio::select! {
            () = ctx.watchers.look.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        match events::tell(ctx).await {
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

async fn say(ctx: &Context) {
    let mut writes = ctx.store.writes();
    while writes.changed().await.is_ok() {
        ctx.watchers.look.notify_one();
        if let Err(error) = ctx.haste.live_say(&ctx.owner.to_string()).await {
            tracing::debug!(error = %chain(&error), "other control planes will see it when they look");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(SAY_EVERY).await;
    }
}

async fn hear(ctx: &Context) {
    let own = ctx.owner.to_string();
    loop {
        let heard = ctx.haste.live_hear(|from| {
            if from != own {
                ctx.watchers.look.notify_one();
            }
        });
        if let Err(error) = heard.await {
            tracing::debug!(error = %chain(&error), "cannot hear of other control planes' news now");
        }
        ctx.watchers.look.notify_one();
        tokio::time::sleep(PAUSE).await;
    }
}

async fn forget(ctx: &Context) {
    loop {
        tokio::time::sleep(MOVES_KEPT / 2).await;
        if let Err(error) = ctx.store.live_sweep(MOVES_KEPT).await {
            tracing::debug!(error = %chain(&error), "cannot forget old changes of state now");
        }
    }
}
