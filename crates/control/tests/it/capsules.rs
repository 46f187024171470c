//! Life and death of capsules, and everything wrong a request can say.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use wrenn_contract::proto::wrenn::host::v1::SandboxPhase;
use wrenn_testkit::wait_until;

use crate::harness::{SOON, World, blurred, new_key};

#[tokio::test]
async fn a_capsule_lives_from_create_to_delete() {
    let world = World::start().await;
    let api = &world.api;
    let created = api.post("/v1/capsules", json!({"metadata": {"who": "me"}, "timeout_sec": 5})).await;
    assert_eq!(created.status, 202);
    insta::assert_json_snapshot!("create", blurred(created.json()));
    let id = created.json()["id"].as_str().expect("an id").to_owned();
    api.wait_status(&id, "running").await;
    let running = api.get(&format!("/v1/capsules/{id}")).await.json();
    insta::assert_json_snapshot!("running", blurred(running));
    let listed = api.get("/v1/capsules").await.json();
    assert_eq!(listed.as_array().expect("a bare array").len(), 1);
    assert_eq!(listed[0]["id"], Value::String(id.clone()));

    assert_eq!(api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    api.wait_status(&id, "stopped").await;
    // Repeating it is no error: published clients retry deletes.
    let again = api.delete(&format!("/v1/capsules/{id}")).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (202, 0));
    assert_eq!(api.get("/v1/capsules").await.json(), json!([]));
    assert_eq!(world.host.phase(&id), Some(SandboxPhase::Gone));
}

#[tokio::test]
async fn ids_that_are_malformed_unknown_or_another_teams_are_told_apart_only_by_form() {
    let world = World::start().await;
    let mine = world.api.create_running().await;
    let other = world.plane.api(&new_key(&world.database, "others").await);
    for (api, id, status, code) in [
        (&world.api, "x", 400, "invalid_request"),
        (&world.api, "cl-zzzzzzzzzzzzzzzzzzzzzzzzz", 400, "invalid_request"),
        (&world.api, "cl-..%2f..%2f..%2f..%2fetcaaa", 400, "invalid_request"),
        (&world.api, "cl-0000000000000000000000000", 404, "not_found"),
        (&other, mine.as_str(), 404, "not_found"),
    ] {
        let path = format!("/v1/capsules/{id}");
        api.get(&path).await.is_error(status, code);
        api.delete(&path).await.is_error(status, code);
        api.post(&format!("{path}/ping"), json!({})).await.is_error(status, code);
        api.post(&format!("{path}/exec"), json!({"cmd": "true"})).await.is_error(status, code);
        api.get(&format!("{path}/processes")).await.is_error(status, code);
        api.delete(&format!("{path}/processes/1")).await.is_error(status, code);
        for route in ["read", "stream/read", "list", "mkdir", "remove"] {
            api.post(&format!("{path}/files/{route}"), json!({"path": "/x"})).await.is_error(status, code);
        }
        for route in ["write", "stream/write"] {
            api.upload(&format!("{path}/files/{route}"), "/x", b"x").await.is_error(status, code);
        }
    }
    assert_eq!(other.get("/v1/capsules").await.json(), json!([]));
    assert_eq!(world.api.status(&mine).await, "running");
}

#[tokio::test]
async fn absurd_wishes_are_refused_and_the_sentence_names_the_bound() {
    let world = World::start().await;
    for (wish, status, says) in [
        (json!({"vcpus": 0}), 400, "between 1 and 32"),
        (json!({"vcpus": -1}), 400, "between 1 and 32"),
        (json!({"vcpus": 33}), 400, "between 1 and 32"),
        (json!({"vcpus": 1.5}), 400, "vcpus"),
        (json!({"memory_mb": 64}), 400, "between 128"),
        (json!({"memory_mb": i64::MAX}), 400, "between 128"),
        (json!({"disk_size_mb": 1}), 400, "between 64"),
        (json!({"disk_size_mb": 2_000_000}), 400, "between 64"),
        (json!({"timeout_sec": i64::MAX}), 400, "30 days"),
        (json!({"template": "../etc"}), 400, "template name"),
        (json!({"template": ""}), 400, "template name"),
        (json!({"template": "unknown"}), 404, "no template unknown"),
        (json!({"metadata": {"envd_version": "1"}}), 400, "set by the system"),
        (json!({"metadata": {"a": 1}}), 400, "string"),
        (json!({"metadata": {"-": "1"}}), 400, "metadata key"),
        (json!({"metadata": {"a": "x".repeat(65)}}), 400, "64 characters"),
        (json!([]), 400, "send an object"),
        (json!({"memory_mb": 200_000}), 422, "ask for less"),
        (json!({"disk_size_mb": 1_048_576}), 422, "a disk of 1048576 MiB"),
    ] {
        let code = match status {
            400 => "invalid_request",
            404 => "not_found",
            _ => "unprocessable",
        };
        let answer = world.api.post("/v1/capsules", wish.clone()).await;
        let message = answer.is_error(status, code);
        assert!(message.contains(says), "{wish}: {message}");
        assert!(!answer.headers.contains_key("retry-after"), "waiting does not help");
    }
    assert_eq!(world.api.get("/v1/capsules").await.json(), json!([]));
    assert!(world.host.living().is_empty());
}

#[tokio::test]
async fn creates_in_parallel_are_all_different_and_all_run() {
    let world = World::start().await;
    let creates = (0..30).map(|_| world.api.create());
    let ids: BTreeSet<String> = futures::future::join_all(creates).await.into_iter().collect();
    assert_eq!(ids.len(), 30);
    for id in &ids {
        world.api.wait_status(id, "running").await;
        assert_eq!(world.host.create_calls(id), 1);
    }
}

#[tokio::test]
async fn parallel_creates_never_promise_more_memory_than_there_is() {
    let world = World::start().await;
    // 4608 MiB less the 1024 that are kept back: seven times 512.
    world.host.behave(|b| b.memory_mib = 4608);
    let store = world.database.store();
    wait_until("the host says how little it has", SOON, || async {
        (store.host_loads().await.expect("loads")[0].memory_mib == 4608).then_some(())
    })
    .await;
    let creates = (0..20).map(|_| world.api.post("/v1/capsules", json!({"memory_mb": 512})));
    let answers = futures::future::join_all(creates).await;
    let made = answers.iter().filter(|a| a.status == 202).count();
    assert_eq!(made, 7);
    for refused in answers.iter().filter(|a| a.status != 202) {
        refused.is_error(503, "no_hosts_available");
    }
}

#[tokio::test]
async fn a_delete_during_create_wins() {
    let world = World::start().await;
    world.host.behave(|b| b.hold_starts = true);
    let id = world.api.create().await;
    wait_until("the host has it", SOON, || async { (world.host.create_calls(&id) > 0).then_some(()) }).await;
    assert_eq!(world.api.status(&id).await, "starting");
    assert_eq!(world.api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    world.api.wait_status(&id, "stopped").await;
    world.host.release_starts();
    assert!(world.host.living().is_empty());
}

#[tokio::test]
async fn a_delete_that_overtakes_its_create_leaves_nothing() {
    let world = World::start().await;
    // The create hangs on its way while the delete passes.
    world.host.behave(|b| b.delay = Duration::from_millis(300));
    let id = world.api.create().await;
    world.host.behave(|b| b.delay = Duration::ZERO);
    assert_eq!(world.api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    world.api.wait_status(&id, "stopped").await;
    wait_until("the create arrived", SOON, || async { (world.host.create_calls(&id) > 0).then_some(()) }).await;
    wait_until("nothing lives", SOON, || async { world.host.living().is_empty().then_some(()) }).await;
    assert_eq!(world.api.status(&id).await, "stopped");
}

#[tokio::test]
async fn many_deletes_at_once_all_succeed() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let path = format!("/v1/capsules/{id}");
    let answers = futures::future::join_all((0..20).map(|_| world.api.delete(&path))).await;
    assert!(answers.iter().all(|a| a.status == 202));
    world.api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_can_be_deleted() {
    let world = World::start().await;
    world.host.behave(|b| b.fail_starts = Some(("disk_full".to_owned(), "the host's disk is full".to_owned())));
    let id = world.api.create().await;
    world.api.wait_status(&id, "error").await;
    let body = world.api.get(&format!("/v1/capsules/{id}")).await.json();
    assert_eq!(body["error"], "the host's disk is full");
    assert_eq!(world.api.get("/v1/capsules").await.json(), json!([]));
    assert_eq!(world.api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
    world.api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn a_create_the_host_refuses_ends_in_error_with_a_reason() {
    use connectrpc::ErrorCode as Code;
    let world = World::start().await;
    for (code, says) in [
        (Code::ResourceExhausted, "no room"),
        (Code::InvalidArgument, "refused the sizes"),
        (Code::NotFound, "template"),
        (Code::Internal, "could not make"),
    ] {
        world.host.behave(|b| b.refuse_create = Some(code));
        let id = world.api.create().await;
        world.api.wait_status(&id, "error").await;
        let body = world.api.get(&format!("/v1/capsules/{id}")).await.json();
        assert!(body["error"].as_str().expect("a reason").contains(says), "{body}");
    }
}

#[tokio::test]
async fn a_crash_is_seen_and_its_disk_is_kept_until_the_delete() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.crash(&id);
    world.api.wait_status(&id, "error").await;
    world.api.post(&format!("/v1/capsules/{id}/exec"), json!({"cmd": "true"})).await.is_error(409, "invalid_state");
    assert_eq!(world.host.delete_calls(&id), 0);
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    world.api.wait_status(&id, "stopped").await;
    assert_eq!(world.host.phase(&id), Some(SandboxPhase::Gone));
}

#[tokio::test]
async fn a_sandbox_its_host_lost_is_stopped_and_says_so() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.forget(&id);
    world.api.wait_status(&id, "stopped").await;
    let body = world.api.get(&format!("/v1/capsules/{id}")).await.json();
    assert_eq!(body["error"], "its host no longer has it");
}

#[tokio::test]
async fn ping_answers_by_state() {
    let world = World::start().await;
    world.host.behave(|b| b.hold_starts = true);
    let id = world.api.create().await;
    let path = format!("/v1/capsules/{id}/ping");
    let message = world.api.post(&path, json!({})).await.is_error(409, "invalid_state");
    assert!(message.contains("starting"), "{message}");
    world.host.release_starts();
    world.api.wait_status(&id, "running").await;
    assert_eq!(world.api.post(&path, json!({})).await.status, 204);
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_an_agent_error() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let message =
        world.api.post(&format!("/v1/capsules/{id}/exec"), json!({"cmd": "true"})).await.is_error(502, "agent_error");
    assert!(message.contains("does not answer"), "{message}");
    world.api.post(&format!("/v1/capsules/{id}/files/read"), json!({"path": "/x"})).await.is_error(502, "agent_error");
}

#[tokio::test]
async fn templates_are_a_bare_list_with_those_the_host_holds() {
    let world = World::start().await;
    let mut list = world.api.get("/v1/snapshots").await.json();
    let list = list.as_array_mut().expect("a bare array");
    list.sort_by_key(|t| t["name"].to_string());
    insta::assert_json_snapshot!("templates", list.iter().cloned().map(blurred).collect::<Vec<_>>());
    assert_eq!(world.api.get("/v1/snapshots?type=snapshot").await.json(), json!([]));
    assert_eq!(world.api.get("/v1/snapshots?type=base").await.json().as_array().map(Vec::len), Some(2));
    world.api.get("/v1/snapshots?type=other").await.is_error(400, "invalid_request");
}

#[tokio::test]
async fn create_to_running_waits_for_no_polling_interval() {
    let world = World::start().await;
    let mut took = Vec::new();
    for _ in 0..20 {
        let began = std::time::Instant::now();
        let id = world.api.create().await;
        while world.api.status(&id).await != "running" {
            tokio::task::yield_now().await;
        }
        took.push(began.elapsed());
    }
    took.sort();
    // Half of the loop's polling interval, so that each step was woken and none found by polling. How fast it is, the benchmark says.
    assert!(took[10] < Duration::from_millis(2500), "median {:?}", took[10]);
}
