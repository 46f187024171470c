//! Leases on background work.

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{Change, Lease, Signal, Work};
use wrenn_testkit::{Database, wait_until};

use crate::rows::{host, ids, place, team, wish};

fn lease(keep: Duration) -> Lease {
    Lease { owner: Uuid::new_v4(), keep }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_row_is_claimed_by_exactly_one() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    for _ in 0..20 {
        place(&store, &wish(team), host, Duration::ZERO).await;
    }
    let claims = (0..5).map(|_| store.work_claim(Work::Start, lease(LONG), 10));
    let mut claimed: Vec<_> =
        futures::future::join_all(claims).await.into_iter().flat_map(|c| ids(&c.expect("claimed"))).collect();
    // Rows locked by another claim are skipped, so one more look takes the rest.
    claimed.extend(ids(&store.work_claim(Work::Start, lease(LONG), 20).await.expect("claimed")));
    let all = claimed.len();
    claimed.sort();
    claimed.dedup();
    assert_eq!((claimed.len(), all), (20, 20));
    assert!(store.work_claim(Work::Start, lease(LONG), 20).await.expect("asked").is_empty());
    assert!(store.work_claim(Work::Stop, lease(LONG), 20).await.expect("asked").is_empty());
}

#[tokio::test]
async fn work_of_the_dead_comes_back_when_their_lease_ends() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::from_millis(200)).await;
    assert!(store.work_claim_one(Work::Start, lease(LONG), row.id).await.expect("asked").is_none());
    let due = store.work_next_due(Work::Start).await.expect("asked").expect("there is one");
    assert!(due <= Duration::from_millis(200), "{due:?}");
    let claimed = wait_until("the lease ended", Duration::from_secs(5), || async {
        store.work_claim_one(Work::Start, lease(LONG), row.id).await.expect("asked")
    })
    .await;
    assert!(claimed.host_address.is_some());
}

#[tokio::test]
async fn postponed_work_is_due_later_and_only_its_holder_postpones() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    let mine = lease(LONG);
    store.work_claim_one(Work::Start, mine, row.id).await.expect("asked").expect("mine");
    store.work_postpone(Work::Start, Uuid::new_v4(), row.id, Duration::ZERO, true).await.expect("asked");
    assert!(store.work_claim_one(Work::Start, lease(LONG), row.id).await.expect("asked").is_none());
    store.work_postpone(Work::Start, mine.owner, row.id, LONG, true).await.expect("asked");
    assert!(store.work_claim_one(Work::Start, lease(LONG), row.id).await.expect("asked").is_none(), "not due yet");
    let due = store.work_next_due(Work::Start).await.expect("asked").expect("there is one");
    assert!(due > Duration::from_secs(50), "{due:?}");
    let now = store.sandbox_get(team, row.id).await.expect("asked").expect("there");
    assert_eq!(now.attempts, 1);
}

#[tokio::test]
async fn a_wish_for_the_end_frees_the_lease_and_is_heard() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let mut ear = store.listen().await.expect("an ear");
    let row = place(&store, &wish(team), host, LONG).await;
    let change = Change { state: Some(SandboxState::Stopping), due_now: true, ..Change::default() };
    store.sandbox_change(row.id, row.generation, &change).await.expect("asked");
    let heard = tokio::time::timeout(Duration::from_secs(5), ear.next()).await.expect("in time").expect("heard");
    assert_eq!(heard, Signal::Sandbox(row.id));
    assert!(store.work_claim_one(Work::Start, lease(LONG), row.id).await.expect("asked").is_none());
    assert!(store.work_claim_one(Work::Stop, lease(LONG), row.id).await.expect("asked").is_some());
}
