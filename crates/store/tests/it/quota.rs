//! A team's bounds hold however many ask at once.

use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use uuid::Uuid;
use wrenn_domain::quota::{Exceeded, Limits, Usage};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{Change, Changed, Placed, Quota, QuotaRefusal, Readmitted};
use wrenn_testkit::Database;

use crate::rows::{host, place, team, wish};

struct AtMost(Limits);

impl Quota for AtMost {
    fn limited(&self) -> bool {
        true
    }

    fn judge(&self, used: Usage, more: Usage) -> BoxFuture<'_, Result<(), QuotaRefusal>> {
        let judged = self.0.admit(used, more).map_err(QuotaRefusal::Exceeded);
        Box::pin(async move {
            // Time for others to pass, if they could.
            tokio::task::yield_now().await;
            judged
        })
    }
}

#[tokio::test]
async fn parallel_creates_cannot_pass_a_limit_together() {
    let store = Database::fresh().await.store();
    let (team, other) = (team(&store).await, team(&store).await);
    let hosts = [host(&store).await, host(&store).await];
    place(&store, &wish(other), hosts[0], Duration::ZERO).await;
    let quota = AtMost(Limits { sandboxes_max: Some(3), ..Limits::NONE });
    let wishes: Vec<_> = (0..12).map(|_| wish(team)).collect();
    let placed = join_all(wishes.iter().enumerate().map(|(n, new)| {
        // On two hosts, so that no host's lock orders them.
        store.sandbox_insert_within(new, hosts[n % 2], |_| true, Uuid::new_v4(), Duration::ZERO, &quota)
    }))
    .await;
    let here = placed.iter().filter(|p| matches!(p, Ok(Placed::Here(_)))).count();
    let refused = placed
        .iter()
        .filter(|p| matches!(p, Ok(Placed::Refused(QuotaRefusal::Exceeded(Exceeded::Sandboxes { max: 3 })))))
        .count();
    assert_eq!((here, refused), (3, 9));
}

#[tokio::test]
async fn a_resume_is_judged_like_a_create_and_changes_nothing_when_refused() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let mut paused = Vec::new();
    for _ in 0..4 {
        let row = place(&store, &wish(team), host, Duration::ZERO).await;
        let change = Change { state: Some(SandboxState::Paused), ..Change::default() };
        let Changed::Applied(row) = store.sandbox_change(row.id, row.generation, &change).await.expect("asked") else {
            panic!("applied")
        };
        paused.push(*row);
    }
    let quota = AtMost(Limits { memory_mib_max: Some(1024), ..Limits::NONE });
    let change = Change { state: Some(SandboxState::Resuming), ..Change::default() };
    let resumed = join_all(paused.iter().map(|row| store.sandbox_readmit(row, &change, |_| true, &quota))).await;
    let passed = resumed.iter().filter(|r| matches!(r, Ok(Readmitted::Room(Changed::Applied(_))))).count();
    assert_eq!(passed, 2, "{resumed:?}");
    let still: i64 = sqlx::query_scalar("SELECT count(*) FROM sandboxes WHERE state = 'paused'")
        .fetch_one(store.pool())
        .await
        .expect("asked");
    assert_eq!(still, 2);
}
