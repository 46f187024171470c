//! Hears over Redis of revoked API keys and forgets them at once. Without Redis they die of age, within a second.

use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::error_chain::chain;
use crate::service::revocation;

pub(super) async fn run(ctx: Arc<Context>) {
    let mut warned = false;
    loop {
        if let Err(error) = ctx.redis.revoked_keys(|hash| revocation::key_ended(&ctx, hash)).await
            && !warned
        {
            warned = true;
            tracing::warn!(error = %chain(&error), "Redis is away; everything works without it, a little slower");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        if warned && ctx.redis.ping().await.is_ok() {
            warned = false;
            tracing::info!("Redis is back");
        }
    }
}
