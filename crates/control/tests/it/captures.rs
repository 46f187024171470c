//! Snapshots: made, listed, created from, failed, raced for, deleted.

use connectrpc::ErrorCode as Code;
use serde_json::{Value, json};
use wrenn_control::fault::Faults;
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Answer, Plane, SOON, World, blurred, host_is_known, new_key};

async fn snapshot(world: &World, id: &str, name: &str) -> Answer {
    world.api.post("/v1/snapshots", json!({"sandbox_id": id, "name": name})).await
}

async fn listed(world: &World) -> Vec<Value> {
    world.api.get("/v1/snapshots?type=snapshot").await.json().as_array().cloned().expect("a bare array")
}

async fn made(world: &World, id: &str, name: &str) {
    assert_eq!(snapshot(world, id, name).await.status, 202);
    wait_until("it is listed", SOON, || async { listed(world).await.iter().any(|t| t["name"] == name).then_some(()) })
        .await;
}

async fn asked(world: &World, rpc: &'static str, id: &str) {
    wait_until("the host was asked", SOON, || async { (world.host.calls(rpc, id) > 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_published_client_overwrites_a_snapshot_by_its_name() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    made(&world, &id, "mine").await;
    let first = world.host.snapshots();
    world.api.wait_status(&id, "running").await;
    snapshot(&world, &id, "mine").await.is_error(409, "already_exists");
    let overwrite = async |value: &str| {
        let path = format!("/v1/snapshots?overwrite={value}");
        world.api.post(&path, json!({"sandbox_id": id, "name": "mine"})).await
    };
    overwrite("false").await.is_error(409, "already_exists");
    overwrite("maybe").await.is_error(400, "invalid_request");
    assert_eq!(overwrite("true").await.status, 202);
    wait_until("the new one is kept and the old one gone", SOON, || async {
        let now = world.host.snapshots();
        (now.len() == 1 && now != first && listed(&world).await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_becomes_a_template_that_capsules_are_made_from() {
    let world = World::start().await;
    let answer = world.api.post("/v1/capsules", json!({"vcpus": 2, "memory_mb": 1024, "disk_size_mb": 9000})).await;
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    world.api.wait_status(&id, "running").await;
    world.host.behave(|b| b.hold_captures = true);
    let answer = snapshot(&world, &id, "mine").await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (202, Some("snapshotting")));
    assert_eq!(listed(&world).await, Vec::<Value>::new(), "hidden until it can be used");
    let path = "/v1/capsules";
    world.api.post(path, json!({"template": "mine"})).await.is_error(404, "not_found");
    world.api.delete("/v1/snapshots/mine").await.is_error(409, "conflict");
    world.host.behave(|b| b.hold_captures = false);
    world.api.wait_status(&id, "running").await;
    insta::assert_json_snapshot!("template", listed(&world).await.into_iter().map(blurred).collect::<Vec<_>>());
    let all = world.api.get("/v1/snapshots").await.json();
    assert_eq!((all.as_array().map(Vec::len), &all[0]["name"]), (Some(3), &json!("mine")), "newest first");
    assert_eq!(world.api.get("/v1/snapshots?type=base").await.json().as_array().map(Vec::len), Some(2));

    // Sizes are the snapshot's whatever is asked, but for a larger disk.
    for (asked_disk, disk) in [(5120, 9000), (10_000, 10_000)] {
        let wish = json!({"template": "mine", "vcpus": 1, "memory_mb": 512, "disk_size_mb": asked_disk});
        let child = world.api.post(path, wish).await.json();
        assert_eq!(
            (&child["vcpus"], &child["memory_mb"], &child["disk_size_mb"]),
            (&json!(2), &json!(1024), &json!(disk))
        );
        let child = child["id"].as_str().expect("an id").to_owned();
        world.api.wait_status(&child, "running").await;
        let wish = world.host.wish(&child).expect("held");
        assert_eq!((vec![wish.snapshot_id], wish.template.as_str()), (world.host.snapshots(), "mine"));
    }
}

#[tokio::test]
async fn a_paused_capsule_is_captured_and_stays_paused() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.api.act(&id, "pause").await;
    world.api.wait_status(&id, "paused").await;
    made(&world, &id, "mine").await;
    world.api.wait_status(&id, "paused").await;
    // One that its host pauses in the middle goes back to what it then is.
    let other = world.api.create_running().await;
    world.host.behave(|b| b.hold_captures = true);
    snapshot(&world, &other, "other").await;
    asked(&world, "snapshot", &other).await;
    world.host.pause_by_timeout(&other);
    let generation = world.host.report(&other).expect("held").generation as i64;
    let store = world.database.store();
    wait_until("the pause is heard", SOON, || async {
        let taken: i64 = sqlx::query_scalar(
            "SELECT max(report_generation) FROM sandboxes WHERE capture_origin = 'paused' AND state = 'snapshotting'",
        )
        .fetch_one(store.pool())
        .await
        .ok()?;
        (taken == generation).then_some(())
    })
    .await;
    world.host.behave(|b| b.hold_captures = false);
    world.api.wait_status(&other, "paused").await;
}

#[tokio::test]
async fn the_disk_goes_along_and_so_do_the_owners_defaults() {
    let Some(world) = World::with_envd().await else { return };
    let store = world.database.store();
    sqlx::query("UPDATE templates SET default_user = 'me', default_env = '{\"A\": \"1\"}' WHERE name = 'minimal'")
        .execute(store.pool())
        .await
        .expect("updated");
    let id = world.api.create_running().await;
    let wish = world.host.wish(&id).expect("held");
    assert_eq!((wish.default_user.as_str(), wish.default_env.get("A").map(String::as_str)), ("me", Some("1")));
    let run = |cmd: &str| json!({"cmd": cmd});
    world.api.post(&format!("/v1/capsules/{id}/exec"), run("echo precious > kept")).await;
    let home = world.api.post(&format!("/v1/capsules/{id}/exec"), run("cat kept")).await.json();
    made(&world, &id, "mine").await;
    let child = world.api.post("/v1/capsules", json!({"template": "mine"})).await.json()["id"].to_string();
    let child = child.trim_matches('"');
    world.api.wait_status(child, "running").await;
    let read = world.api.post(&format!("/v1/capsules/{child}/exec"), run("cat kept")).await.json();
    assert_eq!((read["stdout"].clone(), home["stdout"].clone()), (json!("precious\n"), json!("precious\n")));
    let wish = world.host.wish(child).expect("held");
    assert_eq!((wish.default_user.as_str(), wish.default_env.get("A").map(String::as_str)), ("me", Some("1")));
}

#[tokio::test]
async fn names_are_safe_and_taken_once() {
    let world = World::start().await;
    let ids = futures::future::join_all((0..6).map(|_| world.api.create_running())).await;
    for bad in ["", "../x", "a b", &"a".repeat(65)] {
        snapshot(&world, &ids[0], bad).await.is_error(400, "invalid_request");
    }
    world.api.post("/v1/snapshots", json!({"sandbox_id": "x"})).await.is_error(400, "invalid_request");
    world.api.post("/v1/snapshots", json!({})).await.is_error(400, "invalid_request");
    snapshot(&world, &ids[0], "minimal").await.is_error(409, "already_exists");
    let answers = futures::future::join_all(ids.iter().map(|id| snapshot(&world, id, "mine"))).await;
    let won = answers.iter().filter(|a| a.status == 202).count();
    assert_eq!(won, 1);
    for lost in answers.iter().filter(|a| a.status != 202) {
        lost.is_error(409, "already_exists");
    }
    for id in &ids {
        world.api.wait_status(id, "running").await;
    }
    assert_eq!(world.host.snapshots().len(), 1);
    // Another team's names are its own.
    let other = world.plane.api(&new_key(&world.database, "others").await);
    let id = other.create_running().await;
    assert_eq!(other.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await.status, 202);
    other.wait_status(&id, "running").await;
    let unnamed = world.api.post("/v1/snapshots", json!({"sandbox_id": ids[0]})).await;
    assert_eq!(unnamed.status, 202);
    world.api.wait_status(&ids[0], "running").await;
    let names: Vec<String> =
        listed(&world).await.iter().map(|t| t["name"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(names.iter().any(|n| n.len() == 17 && n.starts_with("template-")), "{names:?}");
    assert_eq!(names.len(), 2);
}

#[tokio::test]
async fn a_snapshot_that_fails_says_so_and_frees_its_name() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    for code in [Code::ResourceExhausted, Code::Internal] {
        world.host.behave(|b| b.refuse_snapshot = Some(code));
        assert_eq!(snapshot(&world, &id, "mine").await.status, 202);
        world.api.wait_status(&id, "running").await;
        let body = world.api.get(&format!("/v1/capsules/{id}")).await.json();
        assert!(body["error"].as_str().expect("a reason").contains("the snapshot did not work"), "{body}");
    }
    world.host.behave(|b| b.refuse_snapshot = None);
    made(&world, &id, "mine").await;
    assert_eq!(world.api.get(&format!("/v1/capsules/{id}")).await.json().get("error"), None);
}

#[tokio::test]
async fn wrong_states_cannot_be_captured_or_forked() {
    let world = World::start().await;
    world.host.behave(|b| b.hold_starts = true);
    let id = world.api.create().await;
    let refused = async |status: &str| {
        world.api.wait_status(&id, status).await;
        let fork = world.api.post(&format!("/v1/capsules/{id}/fork"), json!({"count": 1})).await;
        for answer in [snapshot(&world, &id, "mine").await, fork] {
            let text = answer.is_error(409, "invalid_state");
            assert!(text.contains(status), "{text}");
        }
    };
    refused("starting").await;
    world.host.release_starts();
    world.api.wait_status(&id, "running").await;
    world.host.behave(|b| (b.hold_pauses, b.hold_resumes, b.hold_captures) = (true, true, true));
    world.api.act(&id, "pause").await;
    refused("pausing").await;
    world.host.release_pauses();
    world.api.wait_status(&id, "paused").await;
    world.api.act(&id, "resume").await;
    refused("resuming").await;
    world.host.release_resumes();
    world.api.wait_status(&id, "running").await;
    snapshot(&world, &id, "other").await;
    refused("snapshotting").await;
    for act in ["pause", "resume"] {
        world.api.act(&id, act).await.is_error(409, "conflict");
    }
    world.host.behave(|b| b.hold_captures = false);
    world.api.wait_status(&id, "running").await;
    world.host.crash(&id);
    refused("error").await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    refused("stopped").await;
}

#[tokio::test]
async fn a_delete_of_its_capsule_does_not_lose_a_snapshot_the_host_finishes() {
    let world = World::start().await;
    let (id, doomed) = (world.api.create_running().await, world.api.create_running().await);
    world.host.behave(|b| b.hold_captures = true);
    snapshot(&world, &doomed, "lost").await;
    asked(&world, "snapshot", &doomed).await;
    // The host ends this one before it is written down, so there is nothing to keep.
    world.api.delete(&format!("/v1/capsules/{doomed}")).await;
    world.api.wait_status(&doomed, "stopped").await;
    world.host.behave(|b| b.hold_captures = false);
    wait_until("the name is free", SOON, || async {
        (snapshot(&world, &id, "lost").await.status == 202).then_some(())
    })
    .await;
    world.api.wait_status(&id, "running").await;
    world.host.behave(|b| b.hold_deletes = true);
    // And this one after it.
    snapshot(&world, &id, "kept").await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    wait_until("settled", SOON, || async {
        let names = listed(&world).await.len();
        let pending = world.api.delete("/v1/snapshots/kept").await;
        (names >= 1 && pending.status != 409).then_some(())
    })
    .await;
    world.host.release_deletes();
    world.api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn a_crash_while_captured_is_told_and_the_name_is_free_again() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_captures = true);
    snapshot(&world, &id, "mine").await;
    asked(&world, "snapshot", &id).await;
    world.host.crash(&id);
    world.api.wait_status(&id, "error").await;
    world.host.behave(|b| b.hold_captures = false);
    wait_until("the name is free", SOON, || async {
        (world.api.delete("/v1/snapshots/mine").await.status == 404).then_some(())
    })
    .await;
    assert_eq!(world.api.status(&id).await, "error");
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "running").await;
}

#[tokio::test]
async fn a_template_is_deleted_even_while_its_host_is_away() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    made(&world, &id, "mine").await;
    let child = world.api.post("/v1/capsules", json!({"template": "mine"})).await.json()["id"].to_string();
    let child = child.trim_matches('"');
    world.api.wait_status(child, "running").await;
    let other = world.plane.api(&new_key(&world.database, "others").await);
    other.delete("/v1/snapshots/mine").await.is_error(404, "not_found");
    world.api.delete("/v1/snapshots/nothing").await.is_error(404, "not_found");
    world.api.delete("/v1/snapshots/..%2fx").await.is_error(400, "invalid_request");
    let text = world.api.delete("/v1/snapshots/minimal").await.is_error(403, "forbidden");
    assert!(text.contains("protected"), "{text}");

    world.host.down().await;
    assert_eq!(world.api.delete("/v1/snapshots/mine").await.status, 204);
    world.api.delete("/v1/snapshots/mine").await.is_error(404, "not_found");
    assert_eq!(listed(&world).await, Vec::<Value>::new());
    world.host.behave(|b| b.refuse_discard = Some(Code::Internal));
    world.host.up().await;
    let snapshot_id = world.host.snapshots().remove(0);
    asked(&world, "discard", &snapshot_id).await;
    world.host.behave(|b| b.refuse_discard = None);
    wait_until("its files are gone", SOON, || async { world.host.snapshots().is_empty().then_some(()) }).await;
    assert_eq!(world.api.status(child).await, "running", "what was made from it lives on");
    made(&world, &id, "mine").await;
}

#[tokio::test]
async fn a_snapshot_waits_for_a_host_that_is_away() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.down().await;
    assert_eq!(snapshot(&world, &id, "mine").await.status, 202);
    let store = world.database.store();
    wait_until("it was tried twice", SOON, || async {
        let tries: i32 =
            sqlx::query_scalar("SELECT attempts FROM host_jobs").fetch_one(store.pool()).await.expect("a job");
        (tries >= 2).then_some(())
    })
    .await;
    assert_eq!(world.api.status(&id).await, "snapshotting");
    world.host.up().await;
    world.api.wait_status(&id, "running").await;
    assert_eq!(listed(&world).await.len(), 1);
}

#[tokio::test]
async fn a_capture_that_outlasts_its_lease_is_asked_for_once() {
    let world = World::start().await;
    let second = Plane::start(&world.database.url, &world.database, &world.host, Faults::default()).await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_captures = true);
    snapshot(&world, &id, "mine").await;
    asked(&world, "snapshot", &id).await;
    let store = world.database.store();
    let renewed = || async {
        sqlx::query_scalar::<_, chrono::DateTime<chrono::Utc>>("SELECT lease_until FROM host_jobs")
            .fetch_one(store.pool())
            .await
            .expect("a job")
    };
    let first = renewed().await;
    wait_until("the lease was renewed beyond its first length", SOON, || async {
        (renewed().await - first > chrono::Duration::milliseconds(2000)).then_some(())
    })
    .await;
    world.host.behave(|b| b.hold_captures = false);
    second.api(&world.key).wait_status(&id, "running").await;
    assert_eq!(world.host.calls("snapshot", &id), 1);
}

#[tokio::test]
async fn what_is_made_from_a_snapshot_goes_to_the_host_that_has_it() {
    let database = Database::fresh().await;
    let (one, two) = (SimHost::start(Guest::None).await, SimHost::start(Guest::None).await);
    let fresh = wrenn_domain::ids::HostId::from_uuid(uuid::Uuid::new_v4());
    database.store().host_ensure(&two.url(), fresh).await.expect("a second host");
    let plane = Plane::start(&database.url, &database, &one, Faults::default()).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    let store = database.store();
    wait_until("both hosts are known", SOON, || async {
        (store.host_loads().await.expect("loads").len() == 2).then_some(())
    })
    .await;
    let id = api.create_running().await;
    let (home, elsewhere) = if one.phase(&id).is_some() { (&one, &two) } else { (&two, &one) };
    api.post("/v1/snapshots", json!({"sandbox_id": id, "name": "mine"})).await;
    api.wait_status(&id, "running").await;
    for _ in 0..6 {
        let child = api.post("/v1/capsules", json!({"template": "mine"})).await.json()["id"].to_string();
        api.wait_status(child.trim_matches('"'), "running").await;
    }
    assert_eq!((home.living().len(), elsewhere.living().len()), (7, 0));
}

#[tokio::test]
async fn a_host_that_fell_silent_a_moment_ago_is_not_chosen_while_another_answers() {
    let world = World::start().await;
    let silent = "INSERT INTO hosts (id, address, status, last_seen_at, cpu_cores, memory_mib, disk_total_mib, disk_free_mib, templates)
        SELECT gen_random_uuid(), 'http://127.0.0.1:9', 'online', now() - interval '50 seconds', cpu_cores * 4, memory_mib * 4,
          disk_total_mib, disk_free_mib, templates FROM hosts";
    sqlx::query(silent).execute(world.database.store().pool()).await.expect("a second host");
    assert_eq!(world.database.store().host_loads().await.expect("loads").len(), 2);
    let id = world.api.create_running().await;
    assert_eq!(world.host.living(), [id]);
}

#[tokio::test]
async fn a_template_that_is_deleted_after_a_create_was_accepted_is_still_there_for_it() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    made(&world, &id, "mine").await;
    let files = world.host.snapshots();
    // The host is slow to be asked: by then the template is long deleted.
    world.host.behave(|b| b.refuse_create = Some(Code::Unavailable));
    let accepted = world.api.post("/v1/capsules", json!({"template": "mine"})).await;
    assert_eq!(accepted.status, 202, "{:?}", accepted.body);
    let child = accepted.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(world.api.delete("/v1/snapshots/mine").await.status, 204);
    world.api.post("/v1/capsules", json!({"template": "mine"})).await.is_error(404, "not_found");
    let tries = world.host.create_calls(&child);
    wait_until("the create is tried again", SOON, || async {
        (world.host.create_calls(&child) > tries + 2).then_some(())
    })
    .await;
    assert_eq!(world.host.snapshots(), files, "the files wait for the create");
    world.host.behave(|b| b.refuse_create = None);
    world.api.wait_status(&child, "running").await;
    wait_until("the files are removed", SOON, || async { world.host.snapshots().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn creates_and_the_delete_of_their_template_at_once_are_all_accepted_or_refused_and_none_fails_later() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    for round in 0..10 {
        let name = format!("t{round}");
        made(&world, &id, &name).await;
        let create = || world.api.post("/v1/capsules", json!({"template": name, "memory_mb": 512}));
        let path = format!("/v1/snapshots/{name}");
        let (one, two, deleted, three) = tokio::join!(create(), create(), world.api.delete(&path), create());
        assert_eq!(deleted.status, 204, "{:?}", deleted.body);
        for answer in [one, two, three] {
            match answer.status.as_u16() {
                202 => {
                    let child = answer.json()["id"].as_str().expect("an id").to_owned();
                    world.api.wait_status(&child, "running").await;
                    world.api.delete(&format!("/v1/capsules/{child}")).await;
                }
                _ => drop(answer.is_error(404, "not_found")),
            }
        }
    }
    wait_until("all files are removed", SOON, || async { world.host.snapshots().is_empty().then_some(()) }).await;
}
