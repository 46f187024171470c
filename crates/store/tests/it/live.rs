//! What happens, in one order that nobody misses anything of.

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::event::{ActorType, EventType};
use wrenn_domain::ids::{EventId, PLATFORM_TEAM, SandboxId, TeamId};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::Store;
use wrenn_store::pg::{
    Author, Begun, Change, Changed, Desired, Event, FeedBody, FeedEntry, NewEvent, ResumePoint, Sandbox, Settled,
};
use wrenn_testkit::Database;

use crate::rows::{facts, host, place, team, wish};

fn event(team: TeamId, resource: &str) -> NewEvent {
    NewEvent {
        id: EventId::from_uuid(Uuid::new_v4()),
        kind: EventType::CapsuleCreate,
        outcome: None,
        team,
        author: Author::system(),
        resource_type: "sandbox",
        resource_id: resource.to_owned(),
        metadata: std::collections::BTreeMap::new(),
        error: None,
    }
}

async fn tell(store: &Store, team: TeamId, resource: &str) -> EventId {
    let event = event(team, resource);
    store.event_publish(std::slice::from_ref(&event)).await.expect("told");
    event.id
}

fn told(news: &[FeedEntry]) -> Vec<EventId> {
    let id = |news: &FeedEntry| match &news.body {
        FeedBody::Event(event) => Some(event.id),
        FeedBody::StateChange { .. } => None,
    };
    news.iter().filter_map(id).collect()
}

fn moves(news: &[FeedEntry], of: SandboxId) -> Vec<String> {
    let text = |news: &FeedEntry| match &news.body {
        FeedBody::StateChange { sandbox, from, to, author, .. } if *sandbox == of => {
            let from = from.map(|state| state.to_string()).unwrap_or_default();
            Some(format!("{from}>{to} by {}", author.kind))
        }
        _ => None,
    };
    news.iter().filter_map(text).collect()
}

async fn to(store: &Store, row: &Sandbox, change: Change) -> Sandbox {
    match store.sandbox_change(row.id, row.generation, &change).await.expect("asked") {
        Changed::Applied(row) => *row,
        other => panic!("{other:?}"),
    }
}

/// The transaction that drew its number first commits last: a reader that asks for numbers above the last one would never see it.
#[tokio::test]
async fn an_event_whose_transaction_ends_late_is_told_after_those_that_overtook_it() {
    let database = Database::fresh().await;
    let store = database.store();
    let team = team(&store).await;
    let head = store.live_head().await.expect("asked");
    let mut late = store.pool().begin().await.expect("begun");
    let id = Uuid::new_v4();
    let payload = serde_json::json!({
        "id": EventId::from_uuid(id), "event": "host.up", "timestamp": "2026-01-01T00:00:00Z", "team_id": team,
        "actor": {"type": "system", "id": null, "name": ""}, "resource": {"id": "x", "type": "host"},
    });
    sqlx::query("INSERT INTO event_outbox (id, team_id, payload) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(team.uuid())
        .bind(&payload)
        .execute(&mut *late)
        .await
        .expect("written");
    let early = tell(&store, team, "a").await;
    let (news, seen) = store.live_after(head).await.expect("read");
    assert_eq!(told(&news), [early]);
    let taken = store.outbox_take(10).await.expect("asked").expect("some");
    assert_eq!(taken.payloads.len(), 1);
    taken.note().await.expect("noted");
    late.commit().await.expect("committed");
    let (news, last) = store.live_after(seen).await.expect("read");
    assert_eq!(told(&news), [EventId::from_uuid(id)], "it comes, later");
    assert_eq!(store.live_after(last).await.expect("read").0.len(), 0);
    let taken = store.outbox_take(10).await.expect("asked").expect("some");
    let relayed = Event::read(&taken.payloads[0]).expect("an event");
    assert_eq!((taken.payloads.len(), relayed.id), (1, EventId::from_uuid(id)), "the stream gets it too");
}

#[tokio::test]
async fn many_writers_and_readers_at_once_give_every_reader_every_event_once_and_in_one_order() {
    let database = Database::fresh().await;
    let store = database.store();
    let team = team(&store).await;
    let head = store.live_head().await.expect("asked");
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let store = database.store();
            tokio::spawn(async move {
                let (mut seen, mut at) = (Vec::new(), head);
                let end = tokio::time::Instant::now() + Duration::from_secs(30);
                while seen.len() < 200 && tokio::time::Instant::now() < end {
                    let (news, last) = store.live_after(at).await.expect("read");
                    seen.extend(told(&news));
                    at = last;
                    tokio::task::yield_now().await;
                }
                seen
            })
        })
        .collect();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        async move {
            for _ in 0..25 {
                tell(&store, team, &format!("{writer}")).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    let seen = futures::future::join_all(readers).await;
    let first = seen[0].as_ref().expect("read").clone();
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((first.len(), distinct.len()), (200, 200));
    assert!(seen.iter().all(|one| one.as_ref().expect("read") == &first), "all in one order");
}

#[tokio::test]
async fn who_names_the_last_event_it_saw_is_told_those_after_it_and_only_its_own() {
    let database = Database::fresh().await;
    let store = database.store();
    let (ours, theirs) = (team(&store).await, team(&store).await);
    let one = tell(&store, ours, "a").await;
    let foreign = tell(&store, theirs, "b").await;
    let two = tell(&store, ours, "a").await;
    let three = tell(&store, ours, "c").await;
    let missed = store.live_missed(Some(ours), one).await.expect("asked");
    assert!(!missed.gap);
    let (news, last) = store.live_replay(Some(ours), missed.after, i64::MAX).await.expect("read");
    assert_eq!(told(&news), [two, three]);
    assert_eq!(store.live_replay(Some(ours), last, i64::MAX).await.expect("read").0.len(), 0);
    let (all, _) = store.live_replay(None, missed.after, i64::MAX).await.expect("read");
    assert_eq!(told(&all), [foreign, two, three], "an admin sees every team's");
    // Another team's event, or one that was forgotten: all that is kept, and the word that there may have been more.
    for unknown in [foreign, EventId::from_uuid(Uuid::new_v4())] {
        let missed = store.live_missed(Some(ours), unknown).await.expect("asked");
        assert!(missed.gap);
        let (news, _) = store.live_replay(Some(ours), missed.after, i64::MAX).await.expect("read");
        assert_eq!(told(&news), [one, two, three]);
    }
}

#[tokio::test]
async fn who_missed_more_than_is_told_again_hears_the_newest_and_that_there_is_a_gap() {
    let database = Database::fresh().await;
    let store = database.store();
    let team = team(&store).await;
    let first = tell(&store, team, "a").await;
    sqlx::query(
        "INSERT INTO event_outbox (id, team_id, payload) SELECT gen_random_uuid(), $1, '{}' FROM generate_series(1, 10003)",
    )
    .bind(team.uuid())
    .execute(store.pool())
    .await
    .expect("written");
    let missed = store.live_missed(Some(team), first).await.expect("asked");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM event_outbox WHERE feed_position > $1")
        .bind(missed.after)
        .fetch_one(store.pool())
        .await
        .expect("counted");
    assert_eq!((missed.gap, left), (true, 10_000));
    let head = store.live_head().await.expect("asked");
    let last: Uuid = sqlx::query_scalar("SELECT id FROM event_outbox WHERE feed_position = $1")
        .bind(head)
        .fetch_one(store.pool())
        .await
        .expect("there");
    let none = store.live_missed(Some(team), EventId::from_uuid(last)).await.expect("asked");
    assert_eq!(none, ResumePoint { after: head, gap: false });
}

#[tokio::test]
async fn every_change_of_state_is_seen_whoever_makes_it_with_who_wished_it() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let head = store.live_head().await.expect("asked");
    let key = Author { kind: ActorType::ApiKey, id: Some("key-1".to_owned()), name: "ci".to_owned() };
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    let running = Change { state: Some(SandboxState::Running), ..Change::default() };
    let row = to(&store, &row, running.clone()).await;
    let pausing = Change {
        state: Some(SandboxState::Pausing),
        desired: Some(Desired::Paused),
        requested_by: Some(key),
        ..Change::default()
    };
    let row = to(&store, &row, pausing).await;
    let row = to(&store, &row, Change { state: Some(SandboxState::Running), ..Change::default() }).await;
    let other = place(&store, &wish(team), host, Duration::ZERO).await;
    // Not one by one: a host that fell silent.
    sqlx::query("UPDATE hosts SET last_seen_at = now() - interval '1 hour'").execute(store.pool()).await.expect("aged");
    store.host_mark_silent(Duration::from_secs(90)).await.expect("marked");
    let (news, _) = store.live_after(head).await.expect("read");
    assert_eq!(
        moves(&news, row.id),
        [
            ">starting by system",
            "starting>running by system",
            "running>pausing by api_key",
            "pausing>running by api_key",
            "running>missing by system"
        ]
    );
    assert_eq!(moves(&news, other.id)[0], ">starting by system");
    // A change that changes no state is no news.
    let (_, at) = store.live_after(head).await.expect("read");
    store.sandbox_touch(&[row.id]).await.expect("touched");
    assert!(store.live_after(at).await.expect("read").0.is_empty());
    assert!(store.live_sweep(Duration::ZERO).await.expect("swept") >= 6);
}

#[tokio::test]
async fn a_host_s_silence_and_return_are_told_once_to_whom_it_belongs() {
    let store = Database::fresh().await.store();
    let head = store.live_head().await.expect("asked");
    let (owner, shared) = (team(&store).await, host(&store).await);
    let own = host(&store).await;
    sqlx::query("UPDATE hosts SET type = 'byoc', team_id = $2 WHERE id = $1")
        .bind(own.uuid())
        .bind(owner.uuid())
        .execute(store.pool())
        .await
        .expect("given");
    assert!(store.live_after(head).await.expect("read").0.is_empty(), "a new host is no news");
    sqlx::query("UPDATE hosts SET last_seen_at = now() - interval '1 hour'").execute(store.pool()).await.expect("aged");
    for _ in 0..2 {
        store.host_mark_silent(Duration::from_secs(90)).await.expect("marked");
    }
    for _ in 0..2 {
        store.host_seen(shared, None).await.expect("seen");
        store.host_seen(own, Some(&facts(1024))).await.expect("seen");
    }
    let (news, _) = store.live_after(head).await.expect("read");
    let mut seen: Vec<String> = news
        .iter()
        .filter_map(|news| match &news.body {
            FeedBody::Event(event) => {
                let whose = if event.team == PLATFORM_TEAM { "the platform" } else { "its team" };
                let which = if event.resource_id == shared.to_string() { "shared" } else { "own" };
                assert!(event.outcome.is_none() && event.resource_type == "host");
                assert_eq!(event.metadata.contains_key("last_seen_at"), event.kind == EventType::HostDown);
                Some(format!("{} {which} to {whose}", event.kind))
            }
            FeedBody::StateChange { .. } => None,
        })
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            "host.down own to its team",
            "host.down shared to the platform",
            "host.up own to its team",
            "host.up shared to the platform"
        ]
    );
}

#[tokio::test]
async fn a_group_hears_of_one_sandbox_in_order_and_of_others_meanwhile() {
    let store = Database::fresh().await.store();
    let team = team(&store).await;
    store.event_group_ensure("g").await.expect("known");
    let first = tell(&store, team, "a").await;
    let second = tell(&store, team, "a").await;
    let other = tell(&store, team, "b").await;
    let minute = Duration::from_secs(60);
    let begin = async |id| store.delivery_begin("g", id, minute).await.expect("asked");
    assert_eq!(begin(second).await, Begun::Busy, "not before the first");
    assert_eq!(begin(other).await, Begun::Try(1));
    assert_eq!(begin(first).await, Begun::Try(1));
    assert_eq!(begin(second).await, Begun::Busy, "nor while it is under way");
    let failed = Settled::Failed("no".to_owned());
    store.delivery_settle("g", first, &failed, Duration::ZERO).await.expect("settled");
    assert_eq!(begin(second).await, Begun::Busy, "nor while it is to be tried again");
    assert_eq!(begin(first).await, Begun::Try(2));
    store.delivery_settle("g", first, &Settled::Dead("never".to_owned()), Duration::ZERO).await.expect("settled");
    assert_eq!(begin(second).await, Begun::Try(1), "one that is given up holds nobody up");
}

#[tokio::test]
async fn one_relayer_at_a_time_and_what_it_drops_waits_again() {
    let database = Database::fresh().await;
    let store = database.store();
    let team = team(&store).await;
    for _ in 0..3 {
        tell(&store, team, "a").await;
    }
    let mine = store.outbox_take(2).await.expect("asked").expect("some");
    assert_eq!(mine.payloads.len(), 2);
    let other = database.store();
    let theirs = tokio::spawn(async move { other.outbox_take(10).await.expect("asked").map(|taken| taken.payloads) });
    wrenn_testkit::wait_until("the other waits", Duration::from_secs(10), || async {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'",
        )
        .fetch_one(store.pool())
        .await
        .expect("asked");
        (waiting == 1).then_some(())
    })
    .await;
    let first = mine.payloads.clone();
    drop(mine);
    let theirs = theirs.await.expect("no panic").expect("some");
    assert_eq!(theirs.len(), 3, "the dropped ones first");
    assert_eq!(theirs[..2], first);
}
