//! A team's bounds as extensions state them, in the form the store judges by.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::TeamId;
use wrenn_domain::limits::QUOTA_WAIT_MAX;
use wrenn_domain::quota::{Exceeded, Limits, Usage};
use wrenn_store::pg::{Quota, QuotaRefusal};

use super::hooks::call;
use super::{Extension, ServerContext};
use crate::causes::chain;
use crate::context::Context;

/// The bounds of one team for one act.
pub struct TeamQuota {
    limits: Limits,
    usage: Option<AskUsage>,
}

struct AskUsage {
    ctx: ServerContext,
    team: TeamId,
    extension: Arc<dyn Extension>,
    /// A provider is asked while a database connection is held, and may need one itself: few at once, so that there is one.
    _turn: OwnedSemaphorePermit,
}

/// The bounds that hold for a team now. Limits are asked for here, before anything is locked; usage is judged under the lock.
pub async fn of(ctx: &Context, team: TeamId) -> Result<TeamQuota, Failure> {
    let unbounded = TeamQuota { limits: Limits::NONE, usage: None };
    let (Some(server), Some(extension)) =
        (ctx.server(), ctx.extensions.iter().find(|extension| extension.limits_provider().is_some()))
    else {
        return Ok(unbounded);
    };
    let Some(provider) = extension.limits_provider() else { return Ok(unbounded) };
    let asked = call(QUOTA_WAIT_MAX, async { provider.effective_limits(&server, team).await }).await;
    let limits = asked.map_err(|error| {
        tracing::error!(extension = extension.name(), %team, error = chain(&error), "a team's limits cannot be told");
        refusal(QuotaRefusal::LimitsUnknown)
    })?;
    if limits == Limits::NONE {
        return Ok(unbounded);
    }
    let Some(extension) = ctx.extensions.iter().find(|extension| extension.usage_provider().is_some()) else {
        return Ok(TeamQuota { limits, usage: None });
    };
    let turn = tokio::time::timeout(QUOTA_WAIT_MAX, ctx.usage_turns.clone().acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(refusal(QuotaRefusal::UsageUnknown)) };
    Ok(TeamQuota { limits, usage: Some(AskUsage { ctx: server, team, extension: extension.clone(), _turn: turn }) })
}

impl Quota for TeamQuota {
    fn limited(&self) -> bool {
        self.limits != Limits::NONE
    }

    fn judge(&self, used: Usage, more: Usage) -> BoxFuture<'_, Result<(), QuotaRefusal>> {
        async move {
            let used = match &self.usage {
                None => used,
                Some(ask) => ask.ask(used).await?,
            };
            self.limits.admit(used, more).map_err(QuotaRefusal::Exceeded)
        }
        .boxed()
    }
}

impl AskUsage {
    async fn ask(&self, counted: Usage) -> Result<Usage, QuotaRefusal> {
        let Some(provider) = self.extension.usage_provider() else { return Ok(counted) };
        let asked = call(QUOTA_WAIT_MAX, async { provider.current_usage(&self.ctx, self.team, counted).await }).await;
        asked.map_err(|error| {
            let name = self.extension.name();
            tracing::error!(extension = name, team = %self.team, error = chain(&error), "a team's usage cannot be told");
            QuotaRefusal::UsageUnknown
        })
    }
}

/// What a refusal says to the caller.
pub fn refusal(why: QuotaRefusal) -> Failure {
    let (kind, text) = match why {
        QuotaRefusal::Exceeded(Exceeded::Sandboxes { max }) => {
            (FailureKind::OverQuota, format!("the team may run {max} capsules at once; delete or pause some first"))
        }
        QuotaRefusal::Exceeded(Exceeded::Vcpus { max }) => (
            FailureKind::OverVcpuQuota,
            format!("the team may use {max} vCPUs at once; ask for fewer, or delete or pause capsules first"),
        ),
        QuotaRefusal::Exceeded(Exceeded::MemoryMib { max }) => (
            FailureKind::OverMemoryQuota,
            format!("the team may use {max} MiB of memory at once; ask for less, or delete or pause capsules first"),
        ),
        QuotaRefusal::LimitsUnknown => {
            (FailureKind::LimitsUnknown, "the team's limits cannot be told now; try again".to_owned())
        }
        QuotaRefusal::UsageUnknown => {
            (FailureKind::UsageUnknown, "the team's usage cannot be told now; try again".to_owned())
        }
    };
    Failure::new(kind, text)
}
