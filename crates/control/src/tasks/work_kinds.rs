//! The kinds of work that the loop in work.rs drives: wishes on sandboxes rows, and jobs at hosts.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::time::Duration;

use wrenn_domain::ids::{ChannelId, JobId, OutboundJobId, SandboxId};
use wrenn_domain::limits::{CHANNEL_CALLS_MAX, HOST_CALLS_MAX, OUTBOUND_JOBS_AT_ONCE_MAX};
use wrenn_store::StoreError;
use wrenn_store::pg::{ChannelWork, Job, JobKind, OutboundJob, OutboundJobKind, PlacedSandbox, Work};

use crate::context::Context;
use crate::queue::WorkQueue;

/// A kind of work, kept in the database with a lease and a due time for each piece.
pub trait WorkKind: Copy + Debug + Send + Sync + 'static {
    /// Name of one piece.
    type Id: Copy + Display + Send + Sync + 'static;
    /// One piece, as claimed.
    type Row: Send + 'static;

    /// Pieces under way at once.
    fn at_once(self) -> usize {
        HOST_CALLS_MAX
    }
    /// Pause before the next try of what failed `attempts` times.
    fn backoff(self, ctx: &Context, attempts: u32) -> Duration {
        doubled(ctx.tuning.retry_min, attempts, ctx.tuning.retry_max)
    }
    /// Where pieces of this kind are handed over.
    fn queue(self, ctx: &Context) -> &WorkQueue<Self::Id, Self::Row>;
    /// Takes up to `limit` pieces that are due.
    fn claim(self, ctx: &Context, limit: u32) -> impl Future<Output = Result<Vec<Self::Row>, StoreError>> + Send;
    /// Takes this piece, if it is due.
    fn claim_one(
        self,
        ctx: &Context,
        id: Self::Id,
    ) -> impl Future<Output = Result<Option<Self::Row>, StoreError>> + Send;
    /// Time until the next piece is due.
    fn next_due(self, ctx: &Context) -> impl Future<Output = Result<Option<Duration>, StoreError>> + Send;
    /// Gives a piece back until `pause` is over.
    fn postpone(
        self,
        ctx: &Context,
        id: Self::Id,
        pause: Duration,
        failed: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Work whose doing may outlast its lease, which is renewed meanwhile.
pub trait Renewable: WorkKind {
    /// Whether what is under way when the process is to end is dropped and given back, rather than finished.
    const CUT: bool;

    /// Keeps a piece. False: it is done or somebody else's.
    fn renew(self, ctx: &Context, id: Self::Id) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

impl WorkKind for Work {
    type Id = SandboxId;
    type Row = PlacedSandbox;

    fn queue(self, ctx: &Context) -> &WorkQueue<Self::Id, Self::Row> {
        match self {
            Self::Start => &ctx.queues.starts,
            Self::Stop => &ctx.queues.stops,
            Self::Pause => &ctx.queues.pauses,
            Self::Resume => &ctx.queues.resumes,
        }
    }

    async fn claim(self, ctx: &Context, limit: u32) -> Result<Vec<PlacedSandbox>, StoreError> {
        ctx.store.work_claim(self, ctx.lease(), limit).await
    }

    async fn claim_one(self, ctx: &Context, id: SandboxId) -> Result<Option<PlacedSandbox>, StoreError> {
        ctx.store.work_claim_one(self, ctx.lease(), id).await
    }

    async fn next_due(self, ctx: &Context) -> Result<Option<Duration>, StoreError> {
        ctx.store.work_next_due(self).await
    }

    async fn postpone(self, ctx: &Context, id: SandboxId, pause: Duration, failed: bool) -> Result<(), StoreError> {
        ctx.store.work_postpone(self, ctx.owner, id, pause, failed).await
    }
}

impl WorkKind for JobKind {
    type Id = JobId;
    type Row = Job;

    fn queue(self, ctx: &Context) -> &WorkQueue<Self::Id, Self::Row> {
        match self {
            Self::Capture => &ctx.queues.snapshots,
            Self::Discard => &ctx.queues.discards,
            Self::Fork => &ctx.queues.forks,
        }
    }

    async fn claim(self, ctx: &Context, limit: u32) -> Result<Vec<Job>, StoreError> {
        ctx.store.job_claim(self, ctx.lease(), limit).await
    }

    async fn claim_one(self, ctx: &Context, id: JobId) -> Result<Option<Job>, StoreError> {
        ctx.store.job_claim_one(self, ctx.lease(), id).await
    }

    async fn next_due(self, ctx: &Context) -> Result<Option<Duration>, StoreError> {
        ctx.store.job_next_due(self).await
    }

    async fn postpone(self, ctx: &Context, id: JobId, pause: Duration, failed: bool) -> Result<(), StoreError> {
        ctx.store.job_postpone(self, ctx.owner, id, pause, failed).await
    }
}

impl Renewable for JobKind {
    const CUT: bool = true;

    async fn renew(self, ctx: &Context, id: JobId) -> Result<bool, StoreError> {
        ctx.store.job_renew(self, ctx.lease(), id).await
    }
}

impl WorkKind for OutboundJobKind {
    type Id = OutboundJobId;
    type Row = OutboundJob;

    fn at_once(self) -> usize {
        OUTBOUND_JOBS_AT_ONCE_MAX
    }

    fn backoff(self, ctx: &Context, attempts: u32) -> Duration {
        doubled(ctx.tuning.mail_retry_min, attempts.saturating_sub(1), ctx.tuning.mail_retry_max)
    }

    fn queue(self, ctx: &Context) -> &WorkQueue<Self::Id, Self::Row> {
        match self {
            Self::Mail => &ctx.queues.mails,
            Self::AccountHook => &ctx.queues.account_hooks,
        }
    }

    async fn claim(self, ctx: &Context, limit: u32) -> Result<Vec<OutboundJob>, StoreError> {
        ctx.store.outbound_job_claim(self, ctx.lease(), limit).await
    }

    async fn claim_one(self, ctx: &Context, id: OutboundJobId) -> Result<Option<OutboundJob>, StoreError> {
        ctx.store.outbound_job_claim_one(self, ctx.lease(), id).await
    }

    async fn next_due(self, ctx: &Context) -> Result<Option<Duration>, StoreError> {
        ctx.store.outbound_job_next_due(self).await
    }

    async fn postpone(
        self,
        ctx: &Context,
        id: OutboundJobId,
        pause: Duration,
        _failed: bool,
    ) -> Result<(), StoreError> {
        ctx.store.outbound_job_postpone(self, ctx.owner, id, pause).await
    }
}

impl Renewable for OutboundJobKind {
    // A mail that is cut in the middle may have left.
    const CUT: bool = false;

    async fn renew(self, ctx: &Context, id: OutboundJobId) -> Result<bool, StoreError> {
        ctx.store.outbound_job_renew(self, ctx.lease(), id).await
    }
}

/// The queues of all channels: a piece is a channel, and its row the event that is first in line.
#[derive(Debug, Clone, Copy)]
pub struct ChannelQueues;

impl WorkKind for ChannelQueues {
    type Id = ChannelId;
    type Row = ChannelWork;

    fn at_once(self) -> usize {
        CHANNEL_CALLS_MAX
    }

    fn backoff(self, ctx: &Context, attempts: u32) -> Duration {
        doubled(ctx.tuning.channel_retry_min, attempts.saturating_sub(1), ctx.tuning.channel_retry_max)
    }

    fn queue(self, ctx: &Context) -> &WorkQueue<Self::Id, Self::Row> {
        &ctx.queues.notifications
    }

    async fn claim(self, ctx: &Context, limit: u32) -> Result<Vec<ChannelWork>, StoreError> {
        ctx.store.channel_claim(ctx.lease(), limit).await
    }

    async fn claim_one(self, ctx: &Context, id: ChannelId) -> Result<Option<ChannelWork>, StoreError> {
        ctx.store.channel_claim_one(ctx.lease(), id).await
    }

    /// Not asked: that would be a look at every channel. New events and ends of pauses are said; a word that was lost costs one
    /// ordinary sleep.
    async fn next_due(self, _ctx: &Context) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }

    async fn postpone(self, ctx: &Context, id: ChannelId, pause: Duration, _failed: bool) -> Result<(), StoreError> {
        ctx.store.channel_postpone(ctx.owner, id, pause).await
    }
}

impl Renewable for ChannelQueues {
    // A call that is cut in the middle may have been heard.
    const CUT: bool = false;

    async fn renew(self, ctx: &Context, id: ChannelId) -> Result<bool, StoreError> {
        ctx.store.channel_renew(ctx.lease(), id).await
    }
}
