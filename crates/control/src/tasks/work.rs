//! The loop that starter and stopper share: take what was handed over, claim what is due, sleep until the next is due.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{HOST_CALLS_MAX, LEASE_BATCH_MAX};
use wrenn_store::StoreError;
use wrenn_store::pg::{PlacedSandbox, Work};

use crate::causes::chain;
use crate::context::Context;

/// Longest sleep between two looks: what every lost signal costs at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Shortest sleep, so that a row that cannot be claimed does not make the loop spin.
const LOOK_MIN: Duration = Duration::from_millis(20);
const QUEUE_MAX: usize = 1024;

enum Job {
    /// Leased to us already.
    Ours(Box<PlacedSandbox>),
    /// Somebody made it due.
    Look(SandboxId),
    /// Look at everything.
    LookAll,
}

/// The way into a task. Never waits: when the queue is full the job is found by its lease or its due time.
pub struct WorkQueue {
    to: mpsc::Sender<Job>,
    from: Mutex<Option<mpsc::Receiver<Job>>>,
}

impl Default for WorkQueue {
    fn default() -> Self {
        let (to, from) = mpsc::channel(QUEUE_MAX);
        Self { to, from: Mutex::new(Some(from)) }
    }
}

impl WorkQueue {
    /// Hands over a row that is leased to this process.
    pub fn hand_over(&self, placed: PlacedSandbox) {
        let _ = self.to.try_send(Job::Ours(Box::new(placed)));
    }

    /// Says that this row became due.
    pub fn wake_for(&self, id: SandboxId) {
        let _ = self.to.try_send(Job::Look(id));
    }

    /// Says that anything may have become due.
    pub fn wake(&self) {
        let _ = self.to.try_send(Job::LookAll);
    }
}

/// Drives every row of one kind of work, at most [`HOST_CALLS_MAX`] at once.
pub(super) async fn run<F, Fut>(ctx: Arc<Context>, work: Work, drive: F)
where
    F: Fn(Arc<Context>, PlacedSandbox) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let queue = match work {
        Work::Start => &ctx.starts,
        Work::Stop => &ctx.stops,
    };
    let Some(mut jobs) = queue.from.lock().expect("no panic while held").take() else {
        tracing::error!(?work, "this work has its task already");
        return;
    };
    let hands = Arc::new(Semaphore::new(HOST_CALLS_MAX));
    let begin = async |placed: PlacedSandbox| {
        let hand = hands.clone().acquire_owned().await;
        let step = drive(ctx.clone(), placed);
        // A process that is asked to end finishes its steps: they have deadlines, and the lease would delay others.
        ctx.tasks.spawn(async move {
            step.await;
            drop(hand);
        });
    };
    let mut sleep = Duration::ZERO;
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job.unwrap_or(Job::LookAll),
            () = tokio::time::sleep(sleep) => Job::LookAll,
        };
        let found: Result<(), StoreError> = async {
            match job {
                Job::Ours(placed) => begin(*placed).await,
                Job::Look(id) => {
                    if let Some(placed) = ctx.store.work_claim_one(work, ctx.lease(), id).await? {
                        begin(placed).await;
                    }
                }
                Job::LookAll => {
                    for placed in ctx.store.work_claim(work, ctx.lease(), LEASE_BATCH_MAX).await? {
                        begin(placed).await;
                    }
                    let due = ctx.store.work_next_due(work).await?;
                    sleep = due.unwrap_or(LOOK_EVERY).clamp(LOOK_MIN, LOOK_EVERY);
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

/// Pause before the next try of a row that failed `attempts` times.
pub(super) fn backoff(ctx: &Context, attempts: u32) -> Duration {
    ctx.tuning.retry_min.saturating_mul(1 << attempts.min(16)).min(ctx.tuning.retry_max)
}

/// Gives a row back; failing that it comes back by the end of its lease.
pub(super) async fn postpone(ctx: &Context, work: Work, id: SandboxId, pause: Duration, failed: bool) {
    match ctx.store.work_postpone(work, ctx.owner, id, pause, failed).await {
        Ok(()) => wake_after(ctx, work, id, pause),
        Err(error) => {
            tracing::warn!(sandbox = %id, error = %chain(&error), "cannot give {id} back; its lease will end")
        }
    }
}

fn wake_after(ctx: &Context, work: Work, id: SandboxId, pause: Duration) {
    let to = match work {
        Work::Start => ctx.starts.to.clone(),
        Work::Stop => ctx.stops.to.clone(),
    };
    let stop = ctx.stop.clone();
    ctx.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // A moment later than due by the database's clock.
            () = tokio::time::sleep(pause + Duration::from_millis(5)) => {
                let _ = to.try_send(Job::Look(id));
            }
        }
    });
}
