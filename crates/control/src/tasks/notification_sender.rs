//! Sends events to the channels of their teams: one channel's in order, one at a time, each until the channel took it or was tried
//! often enough. Channels do not wait for each other.
//!
//! An event whose sender dies after the channel took it is sent again, with the same id.

use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::failure::Failure;
use wrenn_domain::limits::{CHANNEL_REFUSALS_MAX, CHANNEL_TRIES_MAX};
use wrenn_domain::notification_channel::ChannelConfig;
use wrenn_store::StoreError;
use wrenn_store::pg::{ChannelEvent, ChannelWork};

use super::work::{self, Next, renew_while, settle};
use super::work_kinds::{ChannelQueues, WorkKind};
use crate::context::Context;
use crate::error_chain::chain;
use crate::fault::FaultPoint;
use crate::notification_channels::{Notice, SealError, SendError};

pub(super) async fn run(ctx: Arc<Context>) {
    if !ctx.channels.sealer.is_ready() {
        tracing::info!("there are no notification channels: WRENN_ENCRYPTION_KEY is not set");
        return std::future::pending().await;
    }
    work::run(ctx, ChannelQueues, drive).await;
}

async fn drive(ctx: Arc<Context>, work: ChannelWork) {
    ctx.faults.reach(FaultPoint::ChannelClaimed).await;
    if let Some(next) = renew_while(&ctx, ChannelQueues, work.id, send_one(&ctx, &work)).await {
        settle(&ctx, ChannelQueues, work.id, next).await;
    }
}

/// Why a try did not work.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("what it is configured with cannot be opened")]
    Seal(#[from] SealError),
    #[error("what it is configured with is no longer taken; set its config anew")]
    Config(#[from] Failure),
    #[error("this version does not know the event")]
    Unknown,
    #[error("the process died in every try")]
    Deadly,
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Sends the event that waits longest. The channel then waits for its turn behind those of others: one with a long queue, or that
/// answers slowly, keeps nobody from theirs.
async fn send_one(ctx: &Context, work: &ChannelWork) -> Result<Next, StoreError> {
    let event = &work.event;
    let attempts = event.attempts;
    let sent = if attempts > CHANNEL_TRIES_MAX { Err(TryError::Deadly) } else { send(ctx, work, event).await };
    let taken = sent.is_ok();
    if let Err(error) = sent {
        let (id, text) = (work.id, chain(&error));
        ctx.store.channel_failed(id, &text).await?;
        if !is_over(&error, attempts) {
            tracing::debug!(channel = %id, attempts, error = text, "{id} did not take an event; trying again");
            let asked = if let TryError::Send(error) = &error { error.wait() } else { None };
            return Ok(Next::RetryAfter(asked.unwrap_or_default().max(ChannelQueues.backoff(ctx, attempts))));
        }
        tracing::warn!(channel = %id, attempts, error = text, "an event for {id} is given up");
    }
    ctx.store.channel_finish(ctx.owner, work.id, event.seq, taken).await?;
    Ok(Next::RetryAfter(Duration::ZERO))
}

async fn send(ctx: &Context, work: &ChannelWork, event: &ChannelEvent) -> Result<(), TryError> {
    let values = ctx.channels.sealer.open(work.id, &work.config)?;
    let config = ChannelConfig::new(work.provider, values)?;
    let notice = Notice::of(event.payload.clone()).ok_or(TryError::Unknown)?;
    ctx.channels.send(&config, &notice).await?;
    ctx.faults.reach(FaultPoint::ChannelSent).await;
    Ok(())
}

/// Whether an event is given up after so many tries. One that is itself refused makes way sooner for those behind it.
fn is_over(error: &TryError, attempts: u32) -> bool {
    match error {
        TryError::Unknown | TryError::Deadly => true,
        TryError::Send(error) if error.is_about_the_notice() => attempts >= CHANNEL_REFUSALS_MAX,
        _ => attempts >= CHANNEL_TRIES_MAX,
    }
}
