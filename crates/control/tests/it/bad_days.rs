//! Hosts and databases that go away, control planes side by side.

use std::time::{Duration, Instant};

use serde_json::json;
use wrenn_control::context::Tuning;
use wrenn_control::fault::Faults;
use wrenn_testkit::host::Guest;
use wrenn_testkit::{CutProxy, Database, SimHost, wait_until};

use crate::harness::{Plane, SOON, World, config, host_is_known, new_key, patient, quick};

#[tokio::test]
async fn a_create_waits_for_a_host_that_is_away() {
    let world = World::start().await;
    world.host.down().await;
    let id = world.api.create().await;
    assert_eq!(world.api.status(&id).await, "starting");
    world.host.up().await;
    world.api.wait_status(&id, "running").await;
}

#[tokio::test]
async fn a_create_no_host_takes_is_given_up_and_leaves_nothing() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let tuning = Tuning { create_give_up: Duration::from_millis(300), ..quick() };
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    // The call is too slow for its deadline, but the host takes it all the same.
    host.behave(|b| b.delay = Duration::from_millis(1500));
    let id = api.create().await;
    api.wait_status(&id, "error").await;
    let body = api.get(&format!("/v1/capsules/{id}")).await.json();
    assert!(body["error"].as_str().expect("a reason").contains("could not be reached"), "{body}");
    host.behave(|b| b.delay = Duration::ZERO);
    wait_until("what the host made late is deleted", SOON, || async {
        (host.create_calls(&id) > 0 && host.living().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_delete_is_never_lost_while_the_host_is_away() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.down().await;
    assert_eq!(world.api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    let store = world.database.store();
    wait_until("it was tried twice", SOON, || async {
        let attempts: i32 =
            sqlx::query_scalar("SELECT attempts FROM sandboxes").fetch_one(store.pool()).await.expect("row");
        (attempts >= 2).then_some(())
    })
    .await;
    assert_eq!(world.api.status(&id).await, "stopping");
    world.host.up().await;
    world.api.wait_status(&id, "stopped").await;
    assert!(world.host.living().is_empty());
}

#[tokio::test]
async fn a_host_that_refuses_a_delete_is_asked_again() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.refuse_delete = Some(connectrpc::ErrorCode::Internal));
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    wait_until("it was asked twice", SOON, || async { (world.host.delete_calls(&id) >= 2).then_some(()) }).await;
    world.host.behave(|b| b.refuse_delete = None);
    world.api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn a_slow_delete_is_stopping_until_the_host_says_gone() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_deletes = true);
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    wait_until("the host was asked", SOON, || async { (world.host.delete_calls(&id) > 0).then_some(()) }).await;
    assert_eq!(world.api.status(&id).await, "stopping");
    world.host.release_deletes();
    world.api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn calls_into_a_capsule_whose_host_is_away_say_so() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.down().await;
    let path = format!("/v1/capsules/{id}");
    let answer = world.api.post(&format!("{path}/exec"), json!({"cmd": "true"})).await;
    answer.is_error(503, "host_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    world.api.post(&format!("{path}/ping"), json!({})).await.is_error(503, "host_unavailable");
    world.api.post(&format!("{path}/files/read"), json!({"path": "/x"})).await.is_error(503, "host_unavailable");
    world.api.upload(&format!("{path}/files/write"), "/x", b"x").await.is_error(503, "host_unavailable");
    assert_eq!(world.api.status(&id).await, "running");
}

#[tokio::test]
async fn sandboxes_of_a_silent_host_are_missing_and_come_back_with_it() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let tuning = Tuning { host_silence: Duration::from_millis(1500), ..quick() };
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    let (id, dead, unwanted) = (api.create_running().await, api.create_running().await, api.create_running().await);
    host.down().await;
    api.wait_status(&id, "missing").await;
    api.wait_status(&dead, "missing").await;
    api.post(&format!("/v1/capsules/{id}/exec"), json!({"cmd": "true"})).await.is_error(409, "invalid_state");
    api.post("/v1/capsules", json!({})).await.is_error(503, "no_hosts_available");
    assert_eq!(api.delete(&format!("/v1/capsules/{unwanted}")).await.status, 202);
    host.forget(&dead);
    host.up().await;
    api.wait_status(&id, "running").await;
    api.wait_status(&dead, "stopped").await;
    api.wait_status(&unwanted, "stopped").await;
    assert_eq!(host.living(), vec![id]);
    assert_eq!(api.post("/v1/capsules", json!({})).await.status, 202);
}

#[tokio::test]
async fn a_wrong_host_token_is_seen_and_nothing_is_lost() {
    let world = World::start().await;
    let mut config = config(&world.database.url, &world.database, &world.host);
    config.host_token = Some("another-token-altogether".to_owned());
    let server = wrenn_control::Server::builder().config(config).bind().await.expect("binds");
    let host = server.context().fleet.host(&world.host.url()).expect("a client");
    let error = host.get_host().await.expect_err("refused");
    assert!(matches!(error, wrenn_control::fleet::FleetError::TokenRefused), "{error:?}");
}

#[tokio::test]
async fn the_database_may_go_away_and_come_back_in_the_middle_of_everything() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let proxy = CutProxy::before_postgres().await;
    let url = format!("postgres://postgres@{}/{}", proxy.addr(), database.name);
    let plane = Plane::start(&url, &database, &host, Faults::default()).await;
    let key = new_key(&database, "team").await;
    let api = plane.api(&key);
    host_is_known(&database).await;
    host.behave(|b| b.hold_starts = true);
    let (starting, doomed) = (api.create().await, api.create().await);
    wait_until("the host has both", SOON, || async {
        (host.create_calls(&starting) > 0 && host.create_calls(&doomed) > 0).then_some(())
    })
    .await;
    api.delete(&format!("/v1/capsules/{doomed}")).await;

    proxy.cut().await;
    host.release_starts();
    let began = Instant::now();
    let refused = api.get(&format!("/v1/capsules/{starting}")).await;
    refused.is_error(503, "service_unavailable");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let health = api.get("/health").await;
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["parts"]["postgres"], "down");
    api.post("/v1/capsules", json!({})).await.is_error(503, "service_unavailable");

    proxy.mend().await;
    api.wait_status(&starting, "running").await;
    api.wait_status(&doomed, "stopped").await;
    assert_eq!(api.get("/health").await.json()["status"], "ok");
    let id = api.create_running().await;
    assert_eq!(host.living().len(), 2, "{id}");
}

#[tokio::test]
async fn a_request_waits_out_a_short_cut_of_the_database() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let proxy = CutProxy::before_postgres().await;
    let url = format!("postgres://postgres@{}/{}", proxy.addr(), database.name);
    let plane = Plane::start(&url, &database, &host, Faults::default()).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    assert_eq!(api.get("/v1/capsules").await.status, 200);
    proxy.cut().await;
    let asked = tokio::spawn(async move { api.post("/v1/capsules", json!({})).await });
    // The request is on its way into the cut before it is mended; either order must end well.
    tokio::task::yield_now().await;
    proxy.mend().await;
    assert_eq!(asked.await.expect("no panic").status, 202);
}

#[tokio::test]
async fn the_database_may_be_away_at_the_start() {
    let database = Database::empty().await;
    let host = SimHost::start(Guest::None).await;
    let proxy = CutProxy::before_postgres().await;
    proxy.cut().await;
    let url = format!("postgres://postgres@{}/{}", proxy.addr(), database.name);
    let plane = Plane::start(&url, &database, &host, Faults::default()).await;
    let api = plane.api("wrn_00000000000000000000000000000000");
    assert_eq!(api.get("/health").await.json()["status"], "down");
    proxy.mend().await;
    wait_until("it is well", SOON, || async { (api.get("/health").await.status == 200).then_some(()) }).await;
    let store = database.store();
    wait_until("the schema is there", SOON, || async {
        store.host_loads().await.ok().filter(|h| !h.is_empty()).map(|_| ())
    })
    .await;
    let api = plane.api(&new_key(&database, "team").await);
    api.create_running().await;
}

#[tokio::test]
async fn redis_may_be_away_and_everything_works() {
    let mut database = Database::fresh().await;
    database.redis_url = "redis://127.0.0.1:1/".to_owned();
    let host = SimHost::start(Guest::None).await;
    let plane = Plane::start(&database.url, &database, &host, Faults::default()).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    let id = api.create_running().await;
    let health = api.get("/health").await;
    assert_eq!((health.status.as_u16(), health.json()["parts"]["redis"].as_str()), (200, Some("down")));
    api.delete(&format!("/v1/capsules/{id}")).await;
    api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn two_control_planes_on_one_database_share_the_work() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let plane = || Plane::start_tuned(&database.url, &database, &host, Faults::default(), patient());
    let (first, second) = (plane().await, plane().await);
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let (one, two) = (first.api(&key), second.api(&key));
    let creates = (0..20).map(|n| if n % 2 == 0 { one.create() } else { two.create() });
    let ids = futures::future::join_all(creates).await;
    for id in &ids {
        two.wait_status(id, "running").await;
        assert_eq!(host.create_calls(id), 1, "asked once, by one of them");
    }
    let deletes = ids.iter().map(|id| {
        let (one, two) = (one.clone(), two.clone());
        async move {
            let path = format!("/v1/capsules/{id}");
            let (a, b) = tokio::join!(one.delete(&path), two.delete(&path));
            assert_eq!((a.status.as_u16(), b.status.as_u16()), (202, 202));
        }
    });
    futures::future::join_all(deletes).await;
    for id in &ids {
        one.wait_status(id, "stopped").await;
    }
    assert!(host.living().is_empty());
}

#[tokio::test]
async fn when_one_of_two_control_planes_dies_the_other_goes_on() {
    let world = World::start().await;
    let second = Plane::start(&world.database.url, &world.database, &world.host, Faults::default()).await;
    let two = second.api(&world.key);
    world.host.behave(|b| b.hold_starts = true);
    let started: Vec<String> = futures::future::join_all((0..5).map(|_| world.api.create())).await;
    let World { plane, host, .. } = world;
    plane.kill();
    host.release_starts();
    for id in &started {
        two.wait_status(id, "running").await;
    }
    let id = two.create_running().await;
    two.delete(&format!("/v1/capsules/{id}")).await;
    two.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn it_ends_cleanly_when_asked_to() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let World { plane, database, host, key, .. } = world;
    plane.end().await;
    assert_eq!(host.living(), vec![id.clone()], "losing the control plane stops no sandbox");
    let next = Plane::start(&database.url, &database, &host, Faults::default()).await;
    let api = next.api(&key);
    assert_eq!(api.status(&id).await, "running");
    // The watch was given back: no lease has to run out.
    host.crash(&id);
    api.wait_status(&id, "error").await;
}
