//! Hears of work that other control planes wrote down, so that it need not wait for the next look.

use std::sync::Arc;
use std::time::Duration;

use wrenn_store::StoreError;
use wrenn_store::pg::Signal;

use crate::context::Context;
use crate::error_chain::chain;

pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        if let Err(error) = listen(&ctx).await {
            tracing::warn!(error = %chain(&error), "cannot hear of other control planes' work now");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        ctx.queues.wake_all();
    }
}

async fn listen(ctx: &Context) -> Result<(), StoreError> {
    let mut signals = ctx.store.listen().await?;
    loop {
        match signals.next().await? {
            // It is due for one of these; the others find nothing to claim.
            Signal::Sandbox(id) => {
                ctx.queues.stops.wake_for(id);
                ctx.queues.pauses.wake_for(id);
                ctx.queues.resumes.wake_for(id);
            }
            Signal::Lost => ctx.queues.wake_all(),
        }
    }
}
