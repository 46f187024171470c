//! Hears over Redis of revoked API keys and forgets them at once. Without Redis they die of age, within a second.

use std::sync::Arc;
use std::time::Duration;

use crate::causes::chain;
use crate::context::Context;

pub(super) async fn run(ctx: Arc<Context>) {
    let mut warned = false;
    loop {
        if let Err(error) = ctx.haste.revoked_keys(|hash| ctx.keys.forget(hash)).await
            && !warned
        {
            warned = true;
            tracing::warn!(error = %chain(&error), "Redis is away; everything works without it, a little slower");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        if warned && ctx.haste.ping().await.is_ok() {
            warned = false;
            tracing::info!("Redis is back");
        }
    }
}
