//! Removes what is past its time: sessions, tokens, counters, old events; purges accounts deleted long ago.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::{ERRAND_KEPT, EVENT_KEPT};

use crate::causes::chain;
use crate::context::Context;
use crate::service::{ServiceError, departures};

const SWEEP_EVERY: Duration = Duration::from_secs(300);

pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        let swept: Result<(), ServiceError> = async {
            ctx.store.account_sweep().await?;
            ctx.store.rate_sweep().await?;
            ctx.store.outbox_sweep(EVENT_KEPT).await?;
            ctx.store.errand_sweep(ERRAND_KEPT).await?;
            departures::purge(&ctx).await?;
            Ok(())
        }
        .await;
        if let Err(error) = swept {
            tracing::warn!(error = %chain(&error), "cannot remove what is past its time now");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}
