//! A team's bounds as extensions state them, in the form the store judges by.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::TeamId;
use wrenn_domain::limits::QUOTA_WAIT_MAX;
use wrenn_domain::quota::{Limits, Usage};
use wrenn_store::pg::{Quota, QuotaRefusal};

use super::context::ServerContext;
use super::hooks::call;
use super::plugin::Extension;
use crate::context::Context;
use crate::error::quota_refusal;
use crate::error_chain::chain;

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

/// The bounds that hold for a team now: an extension's, where one decides on them, else those that admins set. Limits are asked for here, before anything is locked; usage is judged under the lock.
///
/// # Errors
/// When an extension cannot tell the team's limits in time.
pub async fn of(ctx: &Context, team: TeamId) -> Result<TeamQuota, Failure> {
    let unbounded = TeamQuota { limits: Limits::NONE, usage: None };
    let decides = ctx.extensions.iter().find(|extension| extension.limits_provider().is_some());
    let Some(extension) = decides else {
        let limits = ctx.store.team_limits(team).await.map_err(|error| {
            tracing::warn!(%team, error = chain(&error), "a team's limits cannot be read");
            quota_refusal(QuotaRefusal::LimitsUnknown)
        })?;
        return Ok(TeamQuota { limits, usage: None });
    };
    let (Some(server), Some(provider)) = (ctx.server(), extension.limits_provider()) else { return Ok(unbounded) };
    let asked = call(QUOTA_WAIT_MAX, async { provider.effective_limits(&server, team).await }).await;
    let limits = asked.map_err(|error| {
        tracing::error!(extension = extension.name(), %team, error = chain(&error), "a team's limits cannot be told");
        quota_refusal(QuotaRefusal::LimitsUnknown)
    })?;
    if limits == Limits::NONE {
        return Ok(unbounded);
    }
    let Some(extension) = ctx.extensions.iter().find(|extension| extension.usage_provider().is_some()) else {
        return Ok(TeamQuota { limits, usage: None });
    };
    let turn = tokio::time::timeout(QUOTA_WAIT_MAX, ctx.usage_turns.clone().acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(quota_refusal(QuotaRefusal::UsageUnknown)) };
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
