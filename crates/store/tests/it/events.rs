//! Events: in the transaction, over the stream, settled per group, found again when the stream loses them.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::event::{ActorType, EventType, Outcome};
use wrenn_domain::ids::EventId;
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{Author, Begun, Change, Changed, Event, NewAudit, NewEvent, Settled};
use wrenn_store::redis::Redis;
use wrenn_testkit::Database;

use crate::rows::{host, place, team, wish};

pub fn event(team: wrenn_domain::ids::TeamId, resource: &str) -> NewEvent {
    NewEvent {
        id: EventId::from_uuid(Uuid::new_v4()),
        kind: EventType::CapsuleCreate,
        outcome: Some(Outcome::Success),
        team,
        author: Author { kind: ActorType::User, id: Some("usr-1".to_owned()), name: "a@example.com".to_owned() },
        resource_type: "sandbox",
        resource_id: resource.to_owned(),
        metadata: BTreeMap::from([("reason".to_owned(), "x\"y".to_owned())]),
        error: None,
    }
}

#[tokio::test]
async fn an_event_and_an_audit_row_stand_if_and_only_if_their_change_was_made() {
    let store = Database::fresh().await.store();
    let (team, host) = (team(&store).await, host(&store).await);
    let row = place(&store, &wish(team), host, Duration::ZERO).await;
    let change = |told: &NewEvent| Change {
        state: Some(SandboxState::Running),
        events: vec![told.clone()],
        audit: vec![NewAudit::new(team, Author::system(), "sandbox", "create").on(row.id)],
        ..Change::default()
    };
    let (good, stale) = (event(team, &row.id.to_string()), event(team, "never"));
    assert!(matches!(
        store.sandbox_change(row.id, row.generation, &change(&good)).await.expect("asked"),
        Changed::Applied(_)
    ));
    assert!(matches!(
        store.sandbox_change(row.id, row.generation, &change(&stale)).await.expect("asked"),
        Changed::Stale(_)
    ));
    let waiting = store.outbox_waiting(10).await.expect("read");
    assert_eq!(waiting.iter().map(|w| w.id).collect::<Vec<_>>(), [good.id]);
    let told = Event::read(&waiting[0].payload).expect("an event");
    assert_eq!((told.kind, told.outcome, told.team), (good.kind, good.outcome, team));
    assert_eq!((&told.author, &told.metadata), (&good.author, &good.metadata));
    assert!((chrono::Utc::now() - told.timestamp).num_seconds().abs() < 5, "{}", told.timestamp);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_logs").fetch_one(store.pool()).await.expect("asked");
    assert_eq!(rows, 1);
    store.outbox_relayed(&[good.id]).await.expect("noted");
    assert!(store.outbox_waiting(10).await.expect("read").is_empty());
}

#[tokio::test]
async fn a_delivery_is_tried_by_one_at_a_time_and_never_after_it_settled() {
    let store = Database::fresh().await.store();
    let team = team(&store).await;
    let early = event(team, "early");
    store.event_publish(std::slice::from_ref(&early)).await.expect("told");
    store.event_group_ensure("g").await.expect("known");
    let told = event(team, "told");
    store.event_publish(std::slice::from_ref(&told)).await.expect("told");
    let minute = Duration::from_secs(60);
    assert_eq!(store.delivery_begin("g", early.id, minute).await.expect("asked"), Begun::Over, "not mail");
    let tries = futures::future::join_all((0..6).map(|_| store.delivery_begin("g", told.id, minute))).await;
    let ours = tries.iter().filter(|t| matches!(t, Ok(Begun::Try(1)))).count();
    let busy = tries.iter().filter(|t| matches!(t, Ok(Begun::Busy))).count();
    assert_eq!((ours, busy), (1, 5), "{tries:?}");
    assert!(store.delivery_overdue("g", Duration::ZERO, 10).await.expect("read").is_empty(), "somebody is at it");
    let failed = Settled::Failed("no".to_owned());
    store.delivery_settle("g", told.id, &failed, Duration::ZERO).await.expect("settled");
    let overdue = store.delivery_overdue("g", Duration::ZERO, 10).await.expect("read");
    assert_eq!(overdue.iter().map(|w| w.id).collect::<Vec<_>>(), [told.id]);
    assert_eq!(store.delivery_begin("g", told.id, minute).await.expect("asked"), Begun::Try(2));
    let dead = Settled::Dead("still no".to_owned());
    store.delivery_settle("g", told.id, &dead, Duration::ZERO).await.expect("settled");
    assert_eq!(store.delivery_begin("g", told.id, minute).await.expect("asked"), Begun::Over);
    let letters = store.dead_letter_list().await.expect("listed");
    assert_eq!((letters.len(), letters[0].event.id, letters[0].error.as_str()), (1, told.id, "still no"));
    assert!(store.dead_letter_retry("g", told.id).await.expect("asked"));
    assert!(!store.dead_letter_retry("g", told.id).await.expect("asked"), "once");
    assert_eq!(store.delivery_begin("g", told.id, minute).await.expect("asked"), Begun::Try(1));
    store.delivery_settle("g", told.id, &Settled::Done, Duration::ZERO).await.expect("settled");
    assert_eq!(store.delivery_begin("g", told.id, minute).await.expect("asked"), Begun::Over);
}

#[tokio::test]
async fn what_a_dead_consumer_took_is_reclaimed_and_a_lost_group_is_made_again() {
    let database = Database::empty().await;
    let redis = Redis::new(&database.redis_url, &database.redis_prefix).expect("a handle");
    let block = Duration::from_millis(50);
    redis.events_append(&["one".to_owned(), "two".to_owned()]).await.expect("appended");
    let mut dead = redis.events_reader("g", "dead", block).await.expect("joined");
    let taken = dead.fresh(block).await.expect("read");
    assert_eq!(taken.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    dead.acknowledge(&taken[0].id).await.expect("acknowledged");
    drop(dead);
    let mut next = redis.events_reader("g", "next", block).await.expect("joined");
    assert!(next.fresh(block).await.expect("read").is_empty());
    let again = next.reclaim(Duration::ZERO).await.expect("reclaimed");
    assert_eq!(again.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>(), ["two"]);
    let client = redis::Client::open(database.redis_url.as_str()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connects");
    redis::cmd("DEL")
        .arg(format!("{}events", database.redis_prefix))
        .query_async::<()>(&mut connection)
        .await
        .expect("gone");
    assert!(next.fresh(block).await.is_err(), "the group is gone with its stream");
    next.ensure_group().await.expect("made again");
    redis.events_append(&["three".to_owned()]).await.expect("appended");
    assert_eq!(next.fresh(block).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_session_read_before_its_end_cannot_be_shared_after_it() {
    let database = Database::empty().await;
    let redis = Redis::new(&database.redis_url, &database.redis_prefix).expect("a handle");
    let hash = crate::people::secret().hash();
    assert_eq!(redis.session_get(&hash).await.expect("asked"), None);
    redis.session_put(&hash, "usr-a", 1, "{\"a b\": 1}").await.expect("shared");
    assert_eq!(redis.session_get(&hash).await.expect("asked").as_deref(), Some("{\"a b\": 1}"));
    redis.sessions_changed("usr-a", 2).await.expect("told");
    assert_eq!(redis.session_get(&hash).await.expect("asked"), None);
    redis.session_put(&hash, "usr-a", 1, "late").await.expect("ignored");
    assert_eq!(redis.session_get(&hash).await.expect("asked"), None, "a late writer brings nothing back");
    redis.sessions_changed("usr-a", 1).await.expect("told");
    redis.session_put(&hash, "usr-a", 2, "new").await.expect("shared");
    assert_eq!(redis.session_get(&hash).await.expect("asked").as_deref(), Some("new"));
}
