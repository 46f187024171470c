//! Removes what is past its time: sessions, tokens, counters, old events; purges accounts deleted long ago.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::{EVENT_KEPT, OUTBOUND_JOB_KEPT};

use crate::context::Context;
use crate::error::ServiceError;
use crate::error_chain::chain;
use crate::service::account_deletion;

const SWEEP_EVERY: Duration = Duration::from_secs(300);

pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        let swept: Result<(), ServiceError> = async {
            ctx.store.account_sweep().await?;
            ctx.store.rate_sweep().await?;
            ctx.store.outbox_sweep(EVENT_KEPT).await?;
            ctx.store.outbound_job_sweep(OUTBOUND_JOB_KEPT).await?;
            account_deletion::purge(&ctx).await?;
            Ok(())
        }
        .await;
        if let Err(error) = swept {
            tracing::warn!(error = %chain(&error), "cannot remove what is past its time now");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}
