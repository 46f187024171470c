//! What is watched while it happens: event streams.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::json;
use uuid::Uuid;
use wrenn_control::Config;
use wrenn_control::Extension;
use wrenn_control::context::Tuning;
use wrenn_control::extension::{BoxFuture, ExtensionError, SandboxEvent, SandboxEventHook, ServerContext};
use wrenn_control::fault::{FaultPoint, Faults};
use wrenn_domain::event::{EventType, Outcome};
use wrenn_domain::ids::{EventId, TeamId};
use wrenn_store::pg::{Author, NewEvent};
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Api, Plane, SOON, World, host_is_known, new_key, quick, settings, traps};
use crate::people::{Browser, House};
use crate::watch::{Frame, Watch};

const PATH: &str = "/v1/events/stream";

async fn watch(plane: &Plane, key: &str) -> Watch {
    Watch::open(&plane.url(""), PATH, &[("x-api-key", key)]).await
}

async fn watch_since(plane: &Plane, key: &str, last: &str) -> (Watch, Frame) {
    Watch::begin(&plane.url(""), PATH, &[("x-api-key", key), ("last-event-id", last)]).await
}

fn cookies(browser: &Browser) -> String {
    browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
}

fn shorts(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(Frame::short).collect()
}

#[tokio::test]
async fn a_life_is_told_step_by_step_to_its_team_and_to_nobody_else() {
    let world = World::start().await;
    let other = new_key(&world.database, "other").await;
    let mut ours = watch(&world.plane, &world.key).await;
    let mut theirs = watch(&world.plane, &other).await;
    let id = world.api.create().await;
    let born = ours.until("capsule.create success").await;
    assert_eq!(shorts(&born), [">starting", "starting>running", "capsule.create success"]);
    world.api.act(&id, "pause").await;
    let paused = ours.until("capsule.pause success").await;
    assert_eq!(shorts(&paused), ["running>pausing", "pausing>paused", "capsule.pause success"]);
    world.api.act(&id, "resume").await;
    let resumed = ours.until("capsule.resume success").await;
    assert_eq!(shorts(&resumed), ["paused>resuming", "resuming>running", "capsule.resume success"]);
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    let over = ours.until("capsule.destroy success").await;
    assert_eq!(shorts(&over), ["running>stopping", "stopping>stopped", "capsule.destroy success"]);
    for frame in born.iter().chain(&paused).chain(&resumed).chain(&over) {
        let data = &frame.data;
        assert_eq!((frame.of(), data["event"].as_str()), (id.as_str(), Some(frame.event.as_str())), "{data}");
        assert_eq!((data["resource"]["type"].as_str(), data["sandbox"]["id"].as_str()), (Some("sandbox"), Some(&*id)));
        let lasting = frame.event != "capsule.state.changed";
        assert_eq!((frame.id.is_some(), data["id"].as_str()), (lasting, frame.id.as_deref()));
        assert_eq!(data["actor"]["type"], "api_key", "{data}");
        assert!(data["team_id"].as_str().is_some_and(|team| team.starts_with("team-")), "{data}");
        assert!(data["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{data}");
    }
    assert_eq!(over[2].data["sandbox"]["status"], "stopped");
    // What they see next is the first they see at all.
    let foreign = world.plane.api(&other).create().await;
    let first = theirs.next().await.expect("a frame");
    assert_eq!((first.short().as_str(), first.of()), (">starting", foreign.as_str()));
}

#[tokio::test]
async fn what_went_wrong_and_what_nobody_asked_for_carries_its_reason() {
    let world = World::start().await;
    let mut stream = watch(&world.plane, &world.key).await;
    let id = world.api.post("/v1/capsules", json!({"timeout_sec": 60})).await.json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    stream.until("capsule.create success").await;
    world.host.pause_by_timeout(&id);
    let frame = stream.until("capsule.pause success").await.pop().expect("one");
    assert_eq!(
        (frame.data["metadata"]["reason"].as_str(), frame.data["actor"]["type"].as_str()),
        (Some("ttl_expired"), Some("system"))
    );
    world.host.behave(|b| b.fail_resumes = Some(("agent_error".to_owned(), "no".to_owned())));
    world.api.act(&id, "resume").await;
    let frame = stream.until("capsule.resume error").await.pop().expect("one");
    assert_eq!(frame.data["metadata"]["reason"], "resume_failed");
    assert!(frame.data["error"].as_str().is_some_and(|text| !text.is_empty()));
    world.host.behave(|b| b.fail_starts = Some(("agent_error".to_owned(), "no".to_owned())));
    world.api.create().await;
    let frame = stream.until("capsule.create error").await.pop().expect("one");
    assert_eq!(frame.data["metadata"]["reason"], "create_failed");
    world.host.forget(&id);
    let frame = stream.until("capsule.destroy success").await.pop().expect("one");
    assert_eq!(frame.data["metadata"]["reason"], "orphaned");
}

#[tokio::test]
async fn snapshots_are_told_when_they_can_be_used_when_they_failed_and_when_they_are_gone() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let mut stream = watch(&world.plane, &world.key).await;
    world.host.behave(|b| b.hold_captures = true);
    assert_eq!(world.api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await.status, 202);
    stream.until("running>snapshotting").await;
    world.host.behave(|b| b.hold_captures = false);
    let frames = stream.until("template.snapshot.create success").await;
    let frame = frames.last().expect("one");
    assert_eq!((frame.of(), frame.data["resource"]["type"].as_str()), ("mine", Some("snapshot")));
    assert_eq!((frame.data["actor"]["type"].as_str(), frame.data.get("sandbox")), (Some("api_key"), None));
    world.host.behave(|b| b.refuse_snapshot = Some(connectrpc::ErrorCode::Internal));
    world.api.wait_status(&id, "running").await;
    world.api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "other"})).await;
    let frame = stream.until("template.snapshot.create error").await.pop().expect("one");
    assert_eq!((frame.of(), frame.data["metadata"]["reason"].as_str()), ("other", Some("snapshot_failed")));
    assert!(frame.data["error"].as_str().is_some_and(|text| text.contains("snapshot")));
    assert_eq!(world.api.delete("/v1/snapshots/mine").await.status, 204);
    let frame = stream.until("template.snapshot.delete success").await.pop().expect("one");
    assert_eq!(frame.of(), "mine");
}

#[tokio::test]
async fn who_comes_back_is_told_what_it_missed_and_then_goes_on() {
    let world = World::start().await;
    let mut stream = watch(&world.plane, &world.key).await;
    let id = world.api.create().await;
    let seen = stream.until("capsule.create success").await.pop().and_then(|frame| frame.id).expect("an id");
    assert!(stream.comments.is_empty(), "nothing to catch up with: {:?}", stream.comments);
    drop(stream);
    world.api.act(&id, "pause").await;
    world.api.wait_status(&id, "paused").await;
    let (mut again, first) = watch_since(&world.plane, &world.key, &seen).await;
    assert_eq!((first.event.as_str(), first.data.get("metadata")), ("connected", None), "nothing is lost");
    let missed = again.next().await.expect("a frame");
    assert_eq!((missed.short().as_str(), missed.of()), ("capsule.pause success", id.as_str()));
    assert_eq!(missed.data["sandbox"]["status"], "paused");
    // A change of state is told only to who has caught up.
    again.until_comment("caught up").await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    let live = again.until("capsule.destroy success").await;
    assert_eq!(shorts(&live), ["paused>stopping", "stopping>stopped", "capsule.destroy success"]);
    assert_eq!(again.comments, ["caught up"]);
    // The same by the query, as a browser without the header does; nothing was missed.
    let last = live.last().and_then(|frame| frame.id.clone()).expect("an id");
    let path = format!("{PATH}?last_event_id={last}");
    let mut quiet = Watch::open(&world.plane.url(""), &path, &[("x-api-key", &world.key)]).await;
    let next = world.api.create().await;
    assert_eq!(quiet.next().await.map(|frame| frame.of().to_owned()), Some(next));
    assert_eq!(quiet.comments, ["caught up"]);
    // One that is not kept: all there is, and the word that there was more.
    let unknown = EventId::from_uuid(Uuid::new_v4()).to_string();
    let (mut lost, first) = watch_since(&world.plane, &world.key, &unknown).await;
    assert_eq!(first.data["metadata"]["gap"], "true");
    assert_eq!(lost.comments.len(), 1, "{:?}", lost.comments);
    assert_eq!(lost.next().await.map(|frame| frame.short()), Some("capsule.create success".to_owned()));
    let refused = world.api.get(&format!("{PATH}?last_event_id=17")).await;
    refused.is_error(400, "invalid_request");
}

/// Everything that may carry the word is cut: the second plane only looks at the database.
#[tokio::test]
async fn what_happens_at_one_control_plane_is_told_by_every_other_with_redis_and_without() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let one = Plane::start(&database.url, &database, &host, Faults::default()).await;
    let two = Plane::start(&database.url, &database, &host, Faults::default()).await;
    let mut values = settings(&database.url, &database, &host);
    values.insert("REDIS_URL".to_owned(), "redis://127.0.0.1:1".to_owned());
    let alone = Plane::launch(Config::parse(&values).expect("settings"), |builder| builder).await;
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let mut streams = [watch(&one, &key).await, watch(&two, &key).await, watch(&alone, &key).await];
    let mut lives = Vec::new();
    for plane in [&one, &two, &alone] {
        let api = plane.api(&key);
        let id = api.create_running().await;
        api.delete(&format!("/v1/capsules/{id}")).await;
        api.wait_status(&id, "stopped").await;
        lives.push(id);
    }
    let whole = [
        ">starting",
        "starting>running",
        "capsule.create success",
        "running>stopping",
        "stopping>stopped",
        "capsule.destroy success",
    ];
    let mut ids: Vec<Vec<Option<String>>> = Vec::new();
    for stream in &mut streams {
        let mut frames = Vec::new();
        for _ in 0..lives.len() * whole.len() {
            frames.push(stream.next().await.expect("a frame"));
        }
        for id in &lives {
            let own: Vec<String> = frames.iter().filter(|frame| frame.of() == id).map(Frame::short).collect();
            assert_eq!(own, whole, "each once and in order");
        }
        ids.push(frames.into_iter().map(|frame| frame.id).collect());
    }
    assert!(ids.iter().all(|one| one == &ids[0]), "one order and the same ids everywhere");
}

/// Takes every event a hook is told.
#[derive(Clone, Default)]
struct Taker(Arc<Mutex<Vec<(String, String)>>>);

impl Extension for Taker {
    fn name(&self) -> &str {
        "taker"
    }

    fn sandbox_event_hook(&self) -> Option<&dyn SandboxEventHook> {
        Some(self)
    }
}

impl SandboxEventHook for Taker {
    fn on_sandbox_event<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        event: &'a SandboxEvent,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        self.0.lock().expect("whole").push((event.id.to_string(), event.sandbox.to_string()));
        async { Ok(()) }.boxed()
    }
}

async fn empty_redis(database: &Database) {
    let client = redis::Client::open(database.redis_url.as_str()).expect("a client");
    let mut redis = client.get_multiplexed_async_connection().await.expect("connects");
    // Only what is this test's: others run beside it.
    redis::cmd("DEL")
        .arg(format!("{}events", database.redis_prefix))
        .query_async::<()>(&mut redis)
        .await
        .expect("gone");
}

/// Killed at every step an event takes, with a Redis that forgot everything or not: the group and the watcher get every event, and
/// the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reaches_groups_and_watchers_wherever_its_way_is_cut_and_whatever_redis_loses() {
    for point in [
        FaultPoint::EventsTaken,
        FaultPoint::EventsAppended,
        FaultPoint::DeliveryBegun,
        FaultPoint::DeliveryMade,
        FaultPoint::DeliverySettled,
    ] {
        for emptied in [false, true] {
            cut(point, emptied).await;
        }
    }
}

async fn cut(point: FaultPoint, emptied: bool) {
    let case = format!("{point:?}, Redis {}", if emptied { "emptied" } else { "whole" });
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let taker = Taker::default();
    let config = || Config::parse(&settings(&database.url, &database, &host)).expect("settings");
    // What was appended is delivered at once, beside the relayer: the deliverer is stopped as well, at a step that is known.
    let points = if point == FaultPoint::EventsAppended { vec![point, FaultPoint::DeliveryBegun] } else { vec![point] };
    let stops = points.len();
    let (faults, mut caught, armed) = traps(points);
    let part = taker.clone();
    // Nor does the first one deliver from the outbox what a slow machine leaves in the relayer's hands.
    let patient = Tuning { event_overdue: Duration::from_secs(60), ..quick() };
    let first = Plane::launch(config(), |builder| builder.faults(faults).extension(part).tuning(patient)).await;
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let before = first.api(&key).create_running().await;
    settled(&database, &before, &case).await;
    let seen = taker.0.lock().expect("whole")[0].0.clone();
    armed.store(true, Ordering::SeqCst);
    let id = first.api(&key).create().await;
    for _ in 0..stops {
        tokio::time::timeout(SOON, caught.recv())
            .await
            .unwrap_or_else(|_| panic!("{case}: never reached"))
            .expect("told");
    }
    if emptied {
        empty_redis(&database).await;
    }
    first.kill();
    // What the dead one was at is left to it for as long as hooks may take: longer than a test waits.
    sqlx::query("UPDATE event_deliveries SET busy_until = now() WHERE settled_at IS NULL")
        .execute(database.store().pool())
        .await
        .expect("over");
    let part = taker.clone();
    let second = Plane::launch(config(), |builder| builder.extension(part)).await;
    let (mut stream, _) = watch_since(&second, &key, &seen).await;
    let frame = stream.until("capsule.create success").await.pop().expect("one");
    assert_eq!(frame.of(), id, "{case}");
    if emptied {
        empty_redis(&database).await;
    }
    settled(&database, &id, &case).await;
    let taken: Vec<_> = taker.0.lock().expect("whole").iter().filter(|(_, of)| *of == id).cloned().collect();
    // Whoever dies before it could note that it was taken makes it come twice, and nothing else does.
    let times = if point == FaultPoint::DeliveryMade { 2 } else { 1 };
    assert_eq!(taken.len(), times, "{case}");
    assert!(taken.iter().all(|(event, _)| Some(event) == frame.id.as_ref()), "{case}: the same id both ways");
}

/// Waits until the delivery of a capsule's one event is settled and the relayer is done with it.
async fn settled(database: &Database, id: &str, case: &str) {
    let store = database.store();
    wait_until(&format!("{case}: delivered"), SOON, || async {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM event_deliveries d JOIN event_outbox o ON o.id = d.event_id
             WHERE o.payload->'resource'->>'id' = $1 AND d.settled_at IS NOT NULL AND NOT d.dead
               AND o.relayed_at IS NOT NULL",
        )
        .bind(id)
        .fetch_one(store.pool())
        .await
        .ok()?;
        (count == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_its_key_and_a_key_has_only_so_many() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let (id, key) = ann.new_key().await;
    let mut streams = Vec::new();
    for _ in 0..wrenn_domain::limits::LIVE_STREAMS_PER_CREDENTIAL_MAX {
        streams.push(watch(&house.plane, &key).await);
    }
    let api = house.plane.api(&key);
    api.get(PATH).await.is_error(429, "rate_limited");
    drop(streams.pop());
    wait_until("the place of a closed one is free", SOON, || async {
        let again = house.plane.api(&key).request(http::Method::HEAD, PATH).body(http_body_util::Full::default());
        (api.send(again.expect("valid")).await.status == 200).then_some(())
    })
    .await;
    let mut other = watch(&house.plane, &ann.new_key().await.1).await;
    let began = Instant::now();
    assert!(ann.delete(&format!("/v1/api-keys/{id}")).await.status.is_success());
    for stream in &mut streams {
        assert!(stream.next().await.is_none(), "it ended");
        assert!(stream.comments.iter().any(|text| text.contains("credential")), "{:?}", stream.comments);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let third = ann.new_key().await.1;
    let capsule = ann.api(&third).create().await;
    assert_eq!(other.next().await.map(|frame| frame.of().to_owned()), Some(capsule), "another key's goes on");
}

#[tokio::test]
async fn admins_see_every_team_and_the_platforms_hosts_until_they_are_none() {
    let house = House::start().await;
    let admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    ann.get("/v1/admin/events/stream").await.is_error(403, "forbidden");
    let cookie = cookies(&admin);
    let path = "/v1/admin/events/stream";
    let mut all = Watch::open(&house.plane.url(""), path, &[("cookie", &cookie)]).await;
    let theirs = cookies(&ann);
    let mut own = Watch::open(&house.plane.url(""), PATH, &[("cookie", &theirs)]).await;
    let key = ann.new_key().await.1;
    let capsule = ann.api(&key).create().await;
    assert_eq!(all.until("capsule.create success").await.pop().map(|f| f.of().to_owned()), Some(capsule.clone()));
    house.sql("UPDATE hosts SET status = 'unreachable'").await;
    all.until("host.up").await;
    let seen = own.until("capsule.create success").await;
    assert!(seen.iter().all(|frame| frame.of() == capsule), "a shared host is nobody's business");
    ann.api(&key).delete(&format!("/v1/capsules/{capsule}")).await;
    let seen = own.until("capsule.destroy success").await;
    assert!(seen.iter().all(|frame| frame.of() == capsule));
    house.sql("UPDATE users SET is_admin = (email = 'ann@example.com')").await;
    let end = async { while all.next().await.is_some() {} };
    tokio::time::timeout(SOON, end).await.expect("the stream of who is no admin any more ends");
}

/// Nobody is told a part without knowing: a stream that is not read is ended, and its client told all of it when it comes back.
#[tokio::test]
async fn a_reader_that_is_too_slow_is_ended_and_loses_nothing() {
    const EVENTS: usize = 4000;
    let world = World::start().await;
    let mut stream = watch(&world.plane, &world.key).await;
    let store = world.database.store();
    let team: Uuid =
        sqlx::query_scalar("SELECT team_id FROM team_api_keys LIMIT 1").fetch_one(store.pool()).await.expect("a team");
    let event = |number: usize| NewEvent {
        id: EventId::from_uuid(Uuid::new_v4()),
        kind: EventType::SnapshotDelete,
        outcome: Some(Outcome::Success),
        team: TeamId::from_uuid(team),
        author: Author::system(),
        resource_type: "snapshot",
        resource_id: format!("n-{number}"),
        metadata: std::collections::BTreeMap::new(),
        // All together more than sockets and the seat hold.
        error: Some("x".repeat(8000)),
    };
    let events: Vec<NewEvent> = (0..EVENTS).map(event).collect();
    for batch in events.chunks(500) {
        store.event_publish(batch).await.expect("told");
    }
    wait_until("its seat is given away", SOON, || async { (!world.plane.is_watched()).then_some(()) }).await;
    let mut seen = Vec::new();
    let mut last = String::new();
    while let Some(frame) = stream.next().await {
        last = frame.id.clone().expect("an id");
        seen.push(frame.of().to_owned());
    }
    assert!(seen.len() < EVENTS, "it was cut");
    assert!(stream.comments.iter().any(|text| text.contains("too slowly")), "{:?}", stream.comments);
    let (mut again, first) = watch_since(&world.plane, &world.key, &last).await;
    assert!(first.data.get("metadata").is_none(), "no gap");
    while seen.len() < EVENTS {
        seen.push(again.next().await.expect("the rest").of().to_owned());
    }
    assert_eq!(seen, (0..EVENTS).map(|number| format!("n-{number}")).collect::<Vec<_>>());
}

/// The bound is the benchmark's; a machine that compiles meanwhile gets some room.
#[tokio::test]
async fn a_change_of_state_is_told_within_a_moment() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let tuning = Tuning { watch_wait: Duration::from_secs(4), ..quick() };
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let api: Api = plane.api(&key);
    let mut stream = watch(&plane, &key).await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let id = api.create().await;
        let frames = stream.until("capsule.create success").await;
        let told = chrono::Utc::now();
        let frame = frames.last().expect("one");
        assert_eq!(frame.of(), id);
        let at: chrono::DateTime<chrono::Utc> =
            frame.data["timestamp"].as_str().expect("a time").parse().expect("a time");
        waits.push((told - at).num_milliseconds());
    }
    waits.sort_unstable();
    // Far below the 4 s after which a poll would have told it.
    assert!(waits[waits.len() / 2] < 1000, "{waits:?}");
}
