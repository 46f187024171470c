//! Adds up each day's use once it is over, then forgets the spans it came from when they are old. Days that passed while no
//! control plane ran are caught up with: spans are written by whoever changes a state, not by being looked at.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::limits::{SPANS_KEPT, USAGE_KEPT, USAGE_SETTLED};
use wrenn_store::StoreError;

use crate::context::Context;
use crate::error_chain::chain;

const ROLL_EVERY: Duration = Duration::from_secs(3600);

pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        let rolled: Result<(), StoreError> = async {
            while let Some(day) = ctx.store.usage_roll_one(USAGE_SETTLED).await? {
                tracing::info!(%day, "the use of {day} is added up");
            }
            ctx.store.usage_sweep(SPANS_KEPT, USAGE_KEPT).await
        }
        .await;
        if let Err(error) = rolled {
            tracing::warn!(error = %chain(&error), "cannot add up use now; it is done later");
        }
        tokio::time::sleep(ROLL_EVERY).await;
    }
}
