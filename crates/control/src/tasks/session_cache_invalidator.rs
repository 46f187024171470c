//! Hears over Redis whose sessions changed and forgets them at once. Without Redis they die of age, within a second.

use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::error_chain::chain;
use crate::service::revocation;

pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        if let Err(error) = ctx.redis.changed_sessions(|user| revocation::user_changed(&ctx, user)).await {
            // That Redis is away is said by the forgetter of keys.
            tracing::debug!(error = %chain(&error), "cannot hear of ended sessions now");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
