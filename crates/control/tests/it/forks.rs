//! Forks: children of one instant, failures one by one, room, deletes in the middle.

use connectrpc::ErrorCode as Code;
use serde_json::{Value, json};
use wrenn_control::context::Tuning;
use wrenn_control::fault::Faults;
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Answer, Api, Plane, SOON, World, host_is_known, new_key, quick};

async fn fork(api: &Api, id: &str, count: u32) -> Answer {
    api.post(&format!("/v1/capsules/{id}/fork"), json!({"count": count})).await
}

fn results(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json().as_array().cloned().expect("a bare array")
}

fn child(result: &Value) -> String {
    result["capsule"]["id"].as_str().unwrap_or_else(|| panic!("a capsule: {result}")).to_owned()
}

#[tokio::test]
async fn children_run_and_the_source_goes_on() {
    let world = World::start().await;
    let wish = json!({"metadata": {"who": "me"}, "vcpus": 2, "timeout_sec": 100});
    let id = world.api.post("/v1/capsules", wish).await.json()["id"].as_str().expect("an id").to_owned();
    world.api.wait_status(&id, "running").await;
    let children = results(&fork(&world.api, &id, 5).await);
    assert_eq!(children.len(), 5);
    for result in &children {
        assert_eq!(result.get("error"), None);
        let capsule = &result["capsule"];
        assert_eq!((&capsule["vcpus"], &capsule["timeout_sec"]), (&json!(2), &json!(100)));
        assert_eq!((&capsule["metadata"]["who"], &capsule["template"]), (&json!("me"), &json!("minimal")));
        world.api.wait_status(&child(result), "running").await;
    }
    assert_eq!(world.api.status(&id).await, "running");
    assert_eq!(world.api.get("/v1/capsules").await.json().as_array().map(Vec::len), Some(6));
    assert_eq!((world.host.living().len(), world.host.calls("fork", &id)), (6, 1));
    // Each is a capsule of its own.
    let first = child(&children[0]);
    assert_eq!(world.host.create_calls(&first), 0, "no starter asked for it");
    world.api.act(&first, "pause").await;
    world.api.wait_status(&first, "paused").await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    world.api.wait_status(&id, "stopped").await;
    assert_eq!(world.api.status(&child(&children[1])).await, "running");
    // Also of a paused one, which stays paused; and one child when nobody says how many.
    let answer = world.api.post(&format!("/v1/capsules/{first}/fork"), json!({})).await;
    world.api.wait_status(&child(&results(&answer)[0]), "running").await;
    assert_eq!(world.api.status(&first).await, "paused");
}

#[tokio::test]
async fn counts_keep_their_bounds() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    for count in [json!(0), json!(-1), json!(101), json!(1.5), json!("2")] {
        let answer = world.api.post(&format!("/v1/capsules/{id}/fork"), json!({"count": count})).await;
        answer.is_error(400, "invalid_request");
    }
    assert_eq!(results(&fork(&world.api, &id, 100).await).len(), 100);
}

#[tokio::test]
async fn each_child_has_its_own_error() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.fail_children = 2);
    let children = results(&fork(&world.api, &id, 5).await);
    let (made, failed): (Vec<_>, Vec<_>) = children.iter().partition(|r| r.get("capsule").is_some());
    assert_eq!((made.len(), failed.len()), (3, 2));
    for result in failed {
        assert_eq!((&result["error"]["code"], result.get("capsule")), (&json!("disk_full"), None));
        assert!(result["error"]["message"].as_str().is_some_and(|m| m.contains("on purpose")));
    }
    for result in made {
        world.api.wait_status(&child(result), "running").await;
    }
    assert_eq!(world.api.status(&id).await, "running");
    world.host.behave(|b| (b.fail_children, b.refuse_fork) = (0, Some(Code::ResourceExhausted)));
    for result in results(&fork(&world.api, &id, 2).await) {
        assert_eq!(result["error"]["code"], "no_hosts_available");
    }
}

#[tokio::test]
async fn as_many_children_are_made_as_there_is_room_for() {
    let world = World::start().await;
    // 4608 MiB less the 1024 that are kept back: seven times 512.
    world.host.behave(|b| b.memory_mib = 4608);
    let store = world.database.store();
    wait_until("the host says how little it has", SOON, || async {
        (store.host_loads().await.expect("loads")[0].memory_mib == 4608).then_some(())
    })
    .await;
    let id = world.api.create_running().await;
    let (one, two) = tokio::join!(fork(&world.api, &id, 5), fork(&world.api, &id, 5));
    let all: Vec<Value> = results(&one).into_iter().chain(results(&two)).collect();
    let made = all.iter().filter(|r| r.get("capsule").is_some()).count();
    assert_eq!((made, all.len()), (6, 10));
    for result in all.iter().filter(|r| r.get("capsule").is_none()) {
        assert_eq!(result["error"]["code"], "no_hosts_available");
    }
    for result in results(&fork(&world.api, &id, 2).await) {
        assert_eq!(result["error"]["code"], "no_hosts_available", "none fits");
    }
    assert_eq!(world.host.calls("fork", &id), 2);
}

#[tokio::test]
async fn a_source_that_is_deleted_in_the_middle_leaves_errors_and_nothing_else() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_captures = true);
    let (api, source) = (world.api.clone(), id.clone());
    let forking = tokio::spawn(async move { fork(&api, &source, 3).await });
    wait_until("the host was asked", SOON, || async { (world.host.calls("fork", &id) > 0).then_some(()) }).await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    world.api.wait_status(&id, "stopped").await;
    world.host.behave(|b| b.hold_captures = false);
    for result in results(&forking.await.expect("no panic")) {
        assert_eq!(result["error"]["code"], "invalid_state");
    }
    assert!(world.host.living().is_empty());
}

#[tokio::test]
async fn a_child_that_is_deleted_in_the_middle_is_gone_and_its_siblings_run() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_captures = true);
    let (api, source) = (world.api.clone(), id.clone());
    let forking = tokio::spawn(async move { fork(&api, &source, 2).await });
    wait_until("the host was asked", SOON, || async { (world.host.calls("fork", &id) > 0).then_some(()) }).await;
    let rows = world.api.get("/v1/capsules").await.json();
    let ids: Vec<String> = rows
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|r| r["id"].as_str())
        .filter(|i| *i != id)
        .map(str::to_owned)
        .collect();
    assert_eq!(ids.len(), 2);
    world.api.delete(&format!("/v1/capsules/{}", ids[0])).await;
    world.api.wait_status(&ids[0], "stopped").await;
    world.host.behave(|b| b.hold_captures = false);
    forking.await.expect("no panic");
    world.api.wait_status(&ids[1], "running").await;
    assert_eq!(world.api.status(&ids[0]).await, "stopped");
    assert_eq!(world.host.living().len(), 2);
}

#[tokio::test]
async fn a_fork_that_takes_long_answers_with_children_that_are_still_starting() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let tuning = Tuning { fork_wait: std::time::Duration::from_millis(300), ..quick() };
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    let id = api.create_running().await;
    host.behave(|b| b.hold_captures = true);
    let children = results(&fork(&api, &id, 2).await);
    for result in &children {
        assert_eq!(result["capsule"]["status"], "starting");
    }
    host.behave(|b| b.hold_captures = false);
    for result in &children {
        api.wait_status(&child(result), "running").await;
    }
}

#[tokio::test]
async fn a_fork_whose_host_goes_away_is_tried_again_and_given_up_in_the_end() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let tuning = Tuning { create_give_up: std::time::Duration::from_millis(800), ..quick() };
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    let id = api.create_running().await;
    host.down().await;
    for result in results(&fork(&api, &id, 2).await) {
        assert_eq!(result["error"]["code"], "host_unavailable");
    }
    host.up().await;
    for result in results(&fork(&api, &id, 2).await) {
        api.wait_status(&child(&result), "running").await;
    }
}

#[tokio::test]
async fn a_child_its_host_loses_before_it_runs_is_stopped_and_says_so() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_starts = true);
    let children = results(&fork(&world.api, &id, 2).await);
    let (lost, kept) = (child(&children[0]), child(&children[1]));
    world.host.forget(&lost);
    world.api.wait_status(&lost, "stopped").await;
    world.host.release_starts();
    world.api.wait_status(&kept, "running").await;
}

#[tokio::test]
async fn a_fork_asked_of_one_control_plane_may_be_made_by_another() {
    let world = World::start().await;
    let second = Plane::start(&world.database.url, &world.database, &world.host, Faults::default()).await;
    let (one, two) = (world.api.clone(), second.api(&world.key));
    let id = one.create_running().await;
    let asked = (0..6).map(|n| fork(if n % 2 == 0 { &one } else { &two }, &id, 3));
    for answer in futures::future::join_all(asked).await {
        for result in results(&answer) {
            two.wait_status(&child(&result), "running").await;
        }
    }
    assert_eq!((world.host.living().len(), world.host.calls("fork", &id)), (19, 6));
}
