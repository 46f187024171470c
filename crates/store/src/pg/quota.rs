//! A team's bounds, judged while the team's row is locked: what was free when it was judged is still free when it is taken.
//!
//! Must never: know where bounds come from. That is the [`Quota`] given.

use futures::future::BoxFuture;
use sqlx::{PgConnection, Row};
use wrenn_domain::ids::TeamId;
use wrenn_domain::quota::{Exceeded, Usage};

use crate::{Store, StoreError};

/// Judges whether a team may use more.
pub trait Quota: Send + Sync {
    /// False when everything is allowed: then nothing is locked or counted.
    fn limited(&self) -> bool;

    /// Called under the team's lock with what the database counts as used. Must not ask for much time: other creates of
    /// the team wait.
    fn judge(&self, used: Usage, more: Usage) -> BoxFuture<'_, Result<(), QuotaRefusal>>;
}

/// Why a team may not use more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaRefusal {
    Exceeded(Exceeded),
    LimitsUnknown,
    UsageUnknown,
}

/// No bound.
pub struct Unlimited;

impl Quota for Unlimited {
    fn limited(&self) -> bool {
        false
    }

    fn judge(&self, _used: Usage, _more: Usage) -> BoxFuture<'_, Result<(), QuotaRefusal>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How asking for more ended, the database aside.
pub(super) enum Judged {
    Free,
    TeamGone,
    Refused(QuotaRefusal),
}

/// Locks the team, and judges if there is anything to judge. The lock holds until the caller's transaction ends.
pub(super) async fn judge(
    tx: &mut PgConnection,
    team: TeamId,
    more: Usage,
    quota: &dyn Quota,
) -> Result<Judged, sqlx::Error> {
    // A shared lock still keeps the team from being deleted meanwhile.
    let lock = if quota.limited() {
        "SELECT deleted_at IS NULL FROM teams WHERE id = $1 FOR NO KEY UPDATE"
    } else {
        "SELECT deleted_at IS NULL FROM teams WHERE id = $1 FOR SHARE"
    };
    let living: Option<bool> = sqlx::query_scalar(lock).bind(team.uuid()).fetch_optional(&mut *tx).await?;
    if living != Some(true) {
        return Ok(Judged::TeamGone);
    }
    if !quota.limited() {
        return Ok(Judged::Free);
    }
    let used = usage(tx, team).await?;
    Ok(match quota.judge(used, more).await {
        Ok(()) => Judged::Free,
        Err(refusal) => Judged::Refused(refusal),
    })
}

async fn usage(tx: &mut PgConnection, team: TeamId) -> Result<Usage, sqlx::Error> {
    let row = sqlx::query(
        "SELECT count(*) AS kept, count(*) FILTER (WHERE state <> 'paused') AS sandboxes,
           coalesce(sum(vcpus) FILTER (WHERE state <> 'paused'), 0)::bigint AS vcpus,
           coalesce(sum(memory_mib) FILTER (WHERE state <> 'paused'), 0)::bigint AS memory_mib
         FROM sandboxes WHERE team_id = $1
           AND state IN ('starting', 'running', 'pausing', 'paused', 'snapshotting', 'resuming', 'missing')",
    )
    .bind(team.uuid())
    .fetch_one(tx)
    .await?;
    let count = |column: &'static str| -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
    };
    Ok(Usage {
        sandboxes: count("sandboxes")?,
        kept: count("kept")?,
        vcpus: count("vcpus")?,
        memory_mib: count("memory_mib")?,
    })
}

impl Store {
    /// Usage of a team at this moment. Only for show: it may change before the answer arrives.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_usage(&self, team: TeamId) -> Result<Usage, StoreError> {
        self.run("count a team's usage", || async {
            let mut connection = self.pool.acquire().await?;
            usage(&mut connection, team).await
        })
        .await
    }
}
