//! The loop that all who drive wishes share: take what was handed over, claim what is due, sleep until the next is due.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wrenn_domain::limits::LEASE_BATCH_MAX;
use wrenn_store::StoreError;

use super::work_kinds::{Renewable, WorkKind};
use crate::context::Context;
use crate::error_chain::chain;
use crate::queue::Hint;

/// Longest sleep between two looks: what every lost signal costs at most.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// Shortest sleep, so that a row that cannot be claimed does not make the loop spin.
const POLL_MIN: Duration = Duration::from_millis(20);

/// Drives every piece of one kind of work, so many at once. A piece is claimed only when there is a hand for it: a lease must not
/// run out while its piece waits for its turn.
pub(super) async fn run<K, F, Fut>(ctx: Arc<Context>, work: K, drive: F)
where
    K: WorkKind,
    F: Fn(Arc<Context>, K::Row) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Some(mut hints) = work.queue(&ctx).take_receiver() else {
        tracing::error!(?work, "this work has its task already");
        return;
    };
    let hands = Arc::new(Semaphore::new(work.at_once()));
    let begin = |row: K::Row, hand: OwnedSemaphorePermit| {
        let step = drive(ctx.clone(), row);
        // A process that is asked to end finishes its steps: they have deadlines, and the lease would delay others.
        ctx.tasks.spawn(async move {
            step.await;
            drop(hand);
        });
    };
    let mut sleep = Duration::ZERO;
    loop {
        let hint = tokio::select! {
            hint = hints.recv() => hint.unwrap_or(Hint::Any),
            () = tokio::time::sleep(sleep) => Hint::Any,
        };
        let Ok(mut hand) = hands.clone().acquire_many_owned(1).await else { return };
        let found: Result<(), StoreError> = async {
            match hint {
                Hint::Ours(row) => begin(*row, hand),
                Hint::Due(id) => {
                    if let Some(row) = work.claim_one(&ctx, id).await? {
                        begin(row, hand);
                    }
                }
                Hint::Any => {
                    // Nobody else takes hands, so what is free now stays so.
                    if let Ok(more) = hands.clone().try_acquire_many_owned(hands.available_permits() as u32) {
                        hand.merge(more);
                    }
                    let limit = (hand.num_permits() as u32).min(LEASE_BATCH_MAX);
                    for row in work.claim(&ctx, limit).await? {
                        if let Some(one) = hand.split(1) {
                            begin(row, one);
                        }
                    }
                    drop(hand);
                    let due = work.next_due(&ctx).await?;
                    sleep = due.unwrap_or(POLL_EVERY).clamp(POLL_MIN, POLL_EVERY);
                }
            }
            Ok(())
        }
        .await;
        if let Err(error) = found {
            tracing::warn!(?work, error = %chain(&error), "cannot look for work now");
            sleep = Duration::from_millis(500);
        }
    }
}

/// Waits for an act that may outlast the lease of its piece, which is renewed meanwhile. None: the piece is somebody else's by now,
/// or this process is to end; whoever claims the piece next does the same.
pub(super) async fn renew_while<K: Renewable, T>(
    ctx: &Context,
    work: K,
    id: K::Id,
    act: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(act);
    loop {
        tokio::select! {
            // The answer first: it is what all this is for.
            biased;
            answer = act.as_mut() => return Some(answer),
            () = ctx.stop.cancelled(), if K::CUT => {
                postpone(ctx, work, id, Duration::ZERO, false).await;
                return None;
            }
            () = tokio::time::sleep(ctx.tuning.lease / 3) => {}
        }
        match work.renew(ctx, id).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::warn!(%id, ?work, error = %chain(&error), "cannot renew the lease of {id} now")
            }
        }
    }
}

/// Next thing to happen with a piece after one step.
pub(super) enum Next {
    /// Nothing: it is done, or no longer what it was.
    Over,
    /// The host has taken it up; look again in a while in case its news is lost.
    Recheck,
    /// Do it again; so many tries failed before.
    Retry(u32),
    /// Do it again after this; a try failed.
    RetryAfter(Duration),
    /// Begin after this: something else comes first.
    Later(Duration),
}

/// Gives a piece back as one step ended.
pub(super) async fn settle<K: WorkKind>(ctx: &Context, work: K, id: K::Id, next: Result<Next, StoreError>) {
    match next {
        Ok(Next::Over) => {}
        Ok(Next::Recheck) => postpone(ctx, work, id, ctx.tuning.recheck, false).await,
        Ok(Next::Later(pause)) => postpone(ctx, work, id, pause, false).await,
        Ok(Next::RetryAfter(pause)) => postpone(ctx, work, id, pause, true).await,
        Ok(Next::Retry(attempts)) => postpone(ctx, work, id, work.backoff(ctx, attempts), true).await,
        Err(error) => {
            tracing::warn!(%id, ?work, error = %chain(&error), "cannot note what became of {id}; it is done again")
        }
    }
}

/// Gives a piece back; failing that it comes back by the end of its lease.
async fn postpone<K: WorkKind>(ctx: &Context, work: K, id: K::Id, pause: Duration, failed: bool) {
    match work.postpone(ctx, id, pause, failed).await {
        Ok(()) => wake_after(ctx, work, id, pause),
        Err(error) => tracing::warn!(%id, ?work, error = %chain(&error), "cannot give {id} back; its lease will end"),
    }
}

fn wake_after<K: WorkKind>(ctx: &Context, work: K, id: K::Id, pause: Duration) {
    let to = work.queue(ctx).sender();
    let stop = ctx.stop.clone();
    ctx.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // A moment later than due by the database's clock.
            () = tokio::time::sleep(pause + Duration::from_millis(5)) => {
                let _ = to.try_send(Hint::Due(id));
            }
        }
    });
}
