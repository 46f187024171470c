//! Compare-and-set, placement, reading.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::sandbox::SandboxState;
use wrenn_domain::sizes::DiskMib;
use wrenn_store::pg::{Change, Changed, Desired, Placed, ReportMark};
use wrenn_testkit::{CutProxy, Database};

use crate::rows::{host, place, team, wish};

#[tokio::test]
async fn of_many_changes_on_one_generation_exactly_one_is_applied() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    let change = Change { state: Some(SandboxState::Running), ..Change::default() };
    let tries = (0..8).map(|_| store.sandbox_change(row.id, row.generation, &change));
    let outcomes = futures::future::join_all(tries).await;
    let applied = outcomes.iter().filter(|o| matches!(o, Ok(Changed::Applied(_)))).count();
    let stale = outcomes
        .iter()
        .filter(|o| matches!(o, Ok(Changed::Stale(now)) if now.generation == row.generation + 1))
        .count();
    assert_eq!((applied, stale), (1, 7));
    let unknown = SandboxId::from_uuid(Uuid::new_v4());
    assert!(matches!(store.sandbox_change(unknown, 1, &change).await, Ok(Changed::Gone)));
}

#[tokio::test]
async fn a_report_is_written_with_its_change_and_what_is_absent_stays() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    let started = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).expect("a time");
    let mark = ReportMark {
        generation: 7,
        disk: DiskMib::from_stored(6000),
        started_at: Some(started),
        last_active_at: Some(started),
        metadata: BTreeMap::from([("envd_version".to_owned(), "1".to_owned())]),
        since: None,
    };
    let change = Change { state: Some(SandboxState::Running), report: Some(mark), ..Change::default() };
    let Changed::Applied(now) = store.sandbox_change(row.id, row.generation, &change).await.expect("asked") else {
        panic!("applied")
    };
    assert_eq!((now.report_generation, now.disk.get(), now.started_at), (7, 6000, Some(started)));
    assert_eq!((now.metadata["who"].as_str(), now.system_metadata["envd_version"].as_str()), ("me", "1"));
    let older =
        ReportMark { generation: 8, last_active_at: chrono::DateTime::from_timestamp(1, 0), ..ReportMark::default() };
    let change = Change { desired: Some(Desired::Stopped), report: Some(older), ..Change::default() };
    let Changed::Applied(now) = store.sandbox_change(row.id, now.generation, &change).await.expect("asked") else {
        panic!("applied")
    };
    assert_eq!((now.state, now.desired, now.last_active_at), (SandboxState::Running, Desired::Stopped, Some(started)));
    assert_eq!((now.disk.get(), now.system_metadata.len()), (6000, 1));
}

#[tokio::test]
async fn the_last_room_is_given_once() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let wishes: Vec<_> = (0..10).map(|_| wish(team)).collect();
    let tries = wishes
        .iter()
        .map(|new| store.sandbox_insert(new, host, |load| load.sandboxes < 3, Uuid::new_v4(), Duration::ZERO));
    let outcomes = futures::future::join_all(tries).await;
    let here = outcomes.iter().filter(|o| matches!(o, Ok(Placed::Here(_)))).count();
    assert_eq!((here, outcomes.len()), (3, 10));
    assert!(outcomes.iter().all(Result::is_ok));
}

#[tokio::test]
async fn placing_one_id_twice_answers_the_same_row() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let new = wish(team);
    let one = place(&store, &new, host, Duration::ZERO).await;
    let two = place(&store, &new, host, Duration::ZERO).await;
    assert_eq!((one.id, one.created_at), (two.id, two.created_at));
}

#[tokio::test]
async fn another_teams_sandbox_is_not_there() {
    let store = Database::fresh().await.store();
    let (mine, theirs, host) = (team(&store).await, team(&store).await, host(&store).await);
    let row = place(&store, &wish(mine), host, Duration::ZERO).await;
    assert!(store.sandbox_get(theirs, row.id).await.expect("asked").is_none());
    assert!(store.sandbox_get_placed(theirs, row.id).await.expect("asked").is_none());
    assert!(store.sandbox_list(theirs).await.expect("asked").0.is_empty());
    assert_eq!(store.sandbox_list(mine).await.expect("asked").0.len(), 1);
}

#[tokio::test]
async fn every_state_of_the_law_can_be_stored_and_read() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let mut row = place(&store, &wish(team), host, Duration::ZERO).await;
    for state in SandboxState::ALL {
        let change = Change { state: Some(*state), ..Change::default() };
        let Changed::Applied(now) = store.sandbox_change(row.id, row.generation, &change).await.expect("asked") else {
            panic!("applied")
        };
        assert_eq!(now.state, *state);
        row = *now;
    }
}

#[tokio::test]
async fn a_call_in_a_cut_fails_as_away_within_its_deadline_and_works_after_it() {
    let database = Database::fresh().await;
    let proxy = CutProxy::before_postgres().await;
    let url = format!("postgres://postgres@{}/{}", proxy.addr(), database.name);
    let options =
        wrenn_store::StoreOptions { wait_max: Duration::from_millis(700), ..wrenn_store::StoreOptions::new(url) };
    let store = wrenn_store::Store::new(&options).expect("a handle");
    store.ping().await.expect("answers");
    proxy.cut().await;
    let began = std::time::Instant::now();
    let error = store.ping().await.expect_err("away");
    assert!(error.is_away(), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    proxy.mend().await;
    store.ping().await.expect("answers again, over a fresh connection");
}
