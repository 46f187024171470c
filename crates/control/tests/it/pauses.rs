//! Pause and resume: done, failed, held, crossed by deletes, crashes, time-outs, late reports and hosts that are away.

use std::time::Duration;

use connectrpc::ErrorCode as Code;
use serde_json::json;
use wrenn_contract::proto::wrenn::host::v1::SandboxPhase;
use wrenn_control::context::Tuning;
use wrenn_control::fault::Faults;
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Plane, SOON, World, host_is_known, new_key, patient, quick};

async fn paused(world: &World) -> String {
    let id = world.api.create_running().await;
    assert_eq!(world.api.act(&id, "pause").await.status, 202);
    world.api.wait_status(&id, "paused").await;
    id
}

/// Waits until the host has taken a wish up and holds it.
async fn held(host: &SimHost, id: &str, phase: SandboxPhase) {
    wait_until("the host holds it", SOON, || async { (host.phase(id) == Some(phase)).then_some(()) }).await;
}

/// Text and code of a row's failure.
async fn failure(world: &World, id: &str) -> (String, String) {
    let body = world.api.get(&format!("/v1/capsules/{id}")).await.json();
    let uuid = id.parse::<wrenn_domain::ids::SandboxId>().expect("an id").uuid();
    let code: Option<String> = sqlx::query_scalar("SELECT error_code FROM sandboxes WHERE id = $1")
        .bind(uuid)
        .fetch_one(world.database.store().pool())
        .await
        .expect("a row");
    (body["error"].as_str().unwrap_or_default().to_owned(), code.unwrap_or_default())
}

#[tokio::test]
async fn a_capsule_is_paused_and_comes_back_and_repeating_is_no_error() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.hold_pauses = true);
    for _ in 0..2 {
        let answer = world.api.act(&id, "pause").await;
        assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (202, Some("pausing")));
    }
    world.host.release_pauses();
    world.api.wait_status(&id, "paused").await;
    assert_eq!(world.api.act(&id, "pause").await.json()["status"], "paused");
    assert_eq!(world.api.get("/v1/capsules").await.json()[0]["status"], "paused", "it is still listed");
    world.api.post(&format!("/v1/capsules/{id}/exec"), json!({"cmd": "true"})).await.is_error(409, "invalid_state");

    world.host.behave(|b| b.hold_resumes = true);
    let answer = world.api.post(&format!("/v1/capsules/{id}/resume"), json!({"timeout_sec": 7})).await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (202, Some("resuming")));
    assert_eq!(answer.json()["timeout_sec"], 60);
    assert_eq!(world.api.act(&id, "resume").await.json()["status"], "resuming");
    held(&world.host, &id, SandboxPhase::Resuming).await;
    assert_eq!(world.host.report(&id).expect("held").timeout_sec, 60, "the host is told");
    world.host.release_resumes();
    world.api.wait_status(&id, "running").await;
    assert_eq!(world.api.act(&id, "resume").await.json()["status"], "running");
}

#[tokio::test]
async fn the_time_out_goes_to_the_host_at_the_creation() {
    let world = World::start().await;
    let id = world.api.post("/v1/capsules", json!({"timeout_sec": 100})).await.json()["id"].to_string();
    let id = id.trim_matches('"');
    world.api.wait_status(id, "running").await;
    assert_eq!(world.host.wish(id).expect("held").timeout_sec, 100);
}

#[tokio::test]
async fn memory_and_processes_survive_a_pause() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let run = json!({"cmd": "sleep 1000", "background": true, "tag": "here"});
    let pid = world.api.post(&format!("/v1/capsules/{id}/exec"), run).await.json()["pid"].clone();
    world.api.act(&id, "pause").await;
    world.api.wait_status(&id, "paused").await;
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "running").await;
    let list = world.api.get(&format!("/v1/capsules/{id}/processes")).await.json();
    assert_eq!((&list["processes"][0]["tag"], &list["processes"][0]["pid"]), (&json!("here"), &pid));
}

#[tokio::test]
async fn wrong_states_are_refused_and_named() {
    let world = World::start().await;
    world.host.behave(|b| b.hold_starts = true);
    let starting = world.api.create().await;
    let text = world.api.act(&starting, "pause").await.is_error(409, "conflict");
    assert!(text.contains("starting"), "{text}");
    world.api.act(&starting, "resume").await.is_error(409, "conflict");
    world.host.release_starts();
    world.api.wait_status(&starting, "running").await;
    world.host.behave(|b| (b.hold_pauses, b.hold_resumes, b.hold_deletes) = (true, true, true));
    world.api.act(&starting, "pause").await;
    world.api.act(&starting, "resume").await.is_error(409, "conflict");
    world.host.release_pauses();
    world.api.wait_status(&starting, "paused").await;
    world.api.act(&starting, "resume").await;
    world.api.act(&starting, "pause").await.is_error(409, "conflict");
    world.api.delete(&format!("/v1/capsules/{starting}")).await;
    for act in ["pause", "resume"] {
        let text = world.api.act(&starting, act).await.is_error(409, "conflict");
        assert!(text.contains("stopping"), "{text}");
    }
    world.host.release_deletes();
    world.api.wait_status(&starting, "stopped").await;
    for act in ["pause", "resume"] {
        world.api.act(&starting, act).await.is_error(409, "conflict");
    }
}

#[tokio::test]
async fn another_teams_capsule_is_not_there() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let other = world.plane.api(&new_key(&world.database, "others").await);
    for act in ["pause", "resume"] {
        other.act(&id, act).await.is_error(404, "not_found");
        other.act("cl-x", act).await.is_error(400, "invalid_request");
    }
    other.post(&format!("/v1/capsules/{id}/fork"), json!({"count": 1})).await.is_error(404, "not_found");
    other.post("/v1/snapshots", json!({"sandbox_id": id})).await.is_error(404, "not_found");
    assert_eq!(world.api.status(&id).await, "running");
}

#[tokio::test]
async fn absurd_resumes_are_refused() {
    let world = World::start().await;
    let id = paused(&world).await;
    let path = format!("/v1/capsules/{id}/resume");
    for body in [json!({"timeout_sec": i64::MAX}), json!({"timeout_sec": "1"}), json!([])] {
        world.api.post(&path, body).await.is_error(400, "invalid_request");
    }
    assert_eq!(world.api.status(&id).await, "paused");
}

#[tokio::test]
async fn a_pause_that_fails_leaves_it_running_and_says_why() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.behave(|b| b.fail_pauses = Some(("disk_full".to_owned(), "the disk is full".to_owned())));
    world.api.act(&id, "pause").await;
    wait_until("it is said", SOON, || async { (failure(&world, &id).await.1 == "pause_failed").then_some(()) }).await;
    assert_eq!(world.api.status(&id).await, "running");
    assert!(failure(&world, &id).await.0.contains("the disk is full"));
    for code in [Code::ResourceExhausted, Code::Internal, Code::FailedPrecondition] {
        world.host.behave(|b| (b.fail_pauses, b.refuse_pause) = (None, Some(code)));
        world.api.act(&id, "pause").await;
        world.api.wait_status(&id, "running").await;
        assert_eq!(failure(&world, &id).await.1, "pause_failed");
    }
    world.host.behave(|b| b.refuse_pause = None);
    world.api.act(&id, "pause").await;
    world.api.wait_status(&id, "paused").await;
    assert_eq!(failure(&world, &id).await, (String::new(), String::new()));
    assert_eq!(world.host.delete_calls(&id), 0, "nothing is ever deleted because a pause failed");
}

#[tokio::test]
async fn a_resume_that_fails_leaves_it_paused_and_says_why() {
    let world = World::start().await;
    let id = paused(&world).await;
    world.host.behave(|b| b.fail_resumes = Some(("internal_error".to_owned(), "the checksum differs".to_owned())));
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "paused").await;
    let (text, code) = failure(&world, &id).await;
    assert!(text.contains("checksum") && code == "resume_failed", "{text} {code}");
    world.host.behave(|b| (b.fail_resumes, b.refuse_resume) = (None, Some(Code::ResourceExhausted)));
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "paused").await;
    assert!(failure(&world, &id).await.0.contains("no room"));
    world.host.behave(|b| b.refuse_resume = None);
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "running").await;
    assert_eq!(failure(&world, &id).await, (String::new(), String::new()));
}

#[tokio::test]
async fn a_crashed_capsule_is_booted_from_its_disk_and_says_so() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.crash(&id);
    world.api.wait_status(&id, "error").await;
    world.host.behave(|b| b.fail_resumes = Some(("internal_error".to_owned(), "no boot".to_owned())));
    world.api.act(&id, "resume").await;
    wait_until("it is said", SOON, || async { (failure(&world, &id).await.1 == "resume_failed").then_some(()) }).await;
    assert_eq!(world.api.status(&id).await, "error", "and still resumable");
    world.host.behave(|b| (b.fail_resumes, b.refuse_resume) = (None, Some(Code::Internal)));
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "error").await;
    world.host.behave(|b| b.refuse_resume = None);
    assert_eq!(world.api.act(&id, "resume").await.status, 202);
    world.api.wait_status(&id, "running").await;
    let body = world.api.get(&format!("/v1/capsules/{id}")).await.json();
    assert_eq!((body["metadata"]["resumed_from"].as_str(), body.get("error")), (Some("disk"), None));
    world.host.crash(&id);
    world.api.wait_status(&id, "error").await;
    world.api.delete(&format!("/v1/capsules/{id}")).await;
    world.api.wait_status(&id, "stopped").await;
}

#[tokio::test]
async fn a_failed_start_cannot_be_resumed() {
    let world = World::start().await;
    world.host.behave(|b| b.fail_starts = Some(("internal_error".to_owned(), "no".to_owned())));
    let id = world.api.create().await;
    world.api.wait_status(&id, "error").await;
    let text = world.api.act(&id, "resume").await.is_error(409, "conflict");
    assert!(text.contains("nothing of it is kept"), "{text}");
}

#[tokio::test]
async fn what_the_host_pauses_by_itself_is_paused() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    world.host.pause_by_timeout(&id);
    world.api.wait_status(&id, "paused").await;
    world.api.act(&id, "resume").await;
    world.api.wait_status(&id, "running").await;
    // Also when nobody listened while it was running.
    world.host.behave(|b| b.hold_starts = true);
    let quick = world.api.create().await;
    wait_until("the host has it", SOON, || async { world.host.phase(&quick) }).await;
    world.host.pause_by_timeout(&quick);
    world.api.wait_status(&quick, "paused").await;
}

#[tokio::test]
async fn a_late_report_of_an_older_wish_does_not_touch_the_newer_one() {
    let world = World::start().await;
    let id = paused(&world).await;
    let first = world.host.report(&id).expect("held").operation;
    world.host.behave(|b| b.hold_resumes = true);
    world.api.act(&id, "resume").await;
    held(&world.host, &id, SandboxPhase::Resuming).await;
    world.host.say(&id, |report| {
        report.phase = SandboxPhase::Paused.into();
        (report.operation, report.operation_error) = (first, "an older resume did not work".to_owned());
    });
    // A second capsule's whole life is longer than any report takes.
    let other = world.api.create_running().await;
    assert_eq!(world.api.status(&id).await, "resuming");
    world.host.say(&id, |report| report.phase = SandboxPhase::Resuming.into());
    world.host.release_resumes();
    world.api.wait_status(&id, "running").await;

    world.host.behave(|b| b.hold_pauses = true);
    world.api.act(&id, "pause").await;
    held(&world.host, &id, SandboxPhase::Pausing).await;
    world.host.say(&id, |report| {
        report.phase = SandboxPhase::Running.into();
        report.operation_error = "an older pause did not work".to_owned();
    });
    world.api.delete(&format!("/v1/capsules/{other}")).await;
    world.api.wait_status(&other, "stopped").await;
    assert_eq!(world.api.status(&id).await, "pausing");
    world.host.say(&id, |report| report.phase = SandboxPhase::Pausing.into());
    world.host.release_pauses();
    world.api.wait_status(&id, "paused").await;
}

#[tokio::test]
async fn a_delete_during_pause_and_resume_wins() {
    let world = World::start().await;
    world.host.behave(|b| (b.hold_pauses, b.hold_resumes) = (true, true));
    let pausing = world.api.create_running().await;
    world.api.act(&pausing, "pause").await;
    held(&world.host, &pausing, SandboxPhase::Pausing).await;
    world.host.behave(|b| b.hold_pauses = false);
    let resuming = paused(&world).await;
    world.api.act(&resuming, "resume").await;
    held(&world.host, &resuming, SandboxPhase::Resuming).await;
    for id in [&pausing, &resuming] {
        assert_eq!(world.api.delete(&format!("/v1/capsules/{id}")).await.status, 202);
        world.api.wait_status(id, "stopped").await;
    }
    world.host.release_pauses();
    world.host.release_resumes();
    assert!(world.host.living().is_empty());
}

#[tokio::test]
async fn a_pause_and_a_resume_wait_for_a_host_that_is_away() {
    let world = World::start().await;
    let (one, two) = (world.api.create_running().await, paused(&world).await);
    world.host.down().await;
    world.api.act(&one, "pause").await;
    assert_eq!(world.api.act(&two, "resume").await.status, 202);
    let store = world.database.store();
    wait_until("both were tried", SOON, || async {
        let tries: i32 =
            sqlx::query_scalar("SELECT min(attempts) FROM sandboxes").fetch_one(store.pool()).await.expect("rows");
        (tries >= 2).then_some(())
    })
    .await;
    assert_eq!((world.api.status(&one).await, world.api.status(&two).await), ("pausing".into(), "resuming".into()));
    world.host.up().await;
    world.api.wait_status(&one, "paused").await;
    world.api.wait_status(&two, "running").await;
}

#[tokio::test]
async fn paused_ones_of_a_silent_host_stay_paused_and_cannot_be_resumed_meanwhile() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let tuning = Tuning { host_silence: Duration::from_millis(1500), ..quick() };
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let api = plane.api(&new_key(&database, "team").await);
    host_is_known(&database).await;
    let (idle, busy, crossing) = (api.create_running().await, api.create_running().await, api.create_running().await);
    api.act(&idle, "pause").await;
    api.wait_status(&idle, "paused").await;
    host.behave(|b| b.hold_pauses = true);
    api.act(&crossing, "pause").await;
    held(&host, &crossing, SandboxPhase::Pausing).await;
    host.down().await;
    api.wait_status(&busy, "missing").await;
    api.wait_status(&crossing, "missing").await;
    assert_eq!(api.status(&idle).await, "paused");
    api.act(&idle, "resume").await.is_error(503, "host_unavailable");
    host.release_pauses();
    host.pause_by_timeout(&busy);
    host.up().await;
    api.wait_status(&busy, "paused").await;
    api.wait_status(&crossing, "paused").await;
    api.act(&idle, "resume").await;
    api.wait_status(&idle, "running").await;
}

#[tokio::test]
async fn a_resume_needs_room_for_its_memory() {
    let world = World::start().await;
    // 4096 MiB less a reserve of 512: two of 1536, and the paused one holds none.
    world.host.behave(|b| b.memory_mib = 4096);
    let store = world.database.store();
    wait_until("the host says how little it has", SOON, || async {
        (store.host_loads().await.expect("loads")[0].memory_mib == 4096).then_some(())
    })
    .await;
    let big = json!({"memory_mb": 1536});
    let mut ids = Vec::new();
    for turn in 0..3 {
        let answer = world.api.post("/v1/capsules", big.clone()).await;
        assert_eq!(answer.status, 202, "{:?}", answer.body);
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
        world.api.wait_status(&ids[turn], "running").await;
        if turn == 0 {
            world.api.act(&ids[0], "pause").await;
            world.api.wait_status(&ids[0], "paused").await;
        }
    }
    world.api.post("/v1/capsules", big).await.is_error(503, "no_hosts_available");
    let text = world.api.act(&ids[0], "resume").await.is_error(503, "no_hosts_available");
    assert!(text.contains("no room") && text.contains("1536"), "{text}");
    assert_eq!(world.api.status(&ids[0]).await, "paused");
    world.api.act(&ids[1], "pause").await;
    world.api.wait_status(&ids[1], "paused").await;
    let (one, two) = tokio::join!(world.api.act(&ids[0], "resume"), world.api.act(&ids[1], "resume"));
    assert_eq!(one.status.as_u16().min(two.status.as_u16()), 202);
    assert_eq!(one.status.as_u16().max(two.status.as_u16()), 503, "the last room is given once");
}

#[tokio::test]
async fn two_control_planes_share_pauses_and_resumes() {
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::None).await;
    let plane = || Plane::start_tuned(&database.url, &database, &host, Faults::default(), patient());
    let (first, second) = (plane().await, plane().await);
    let key = new_key(&database, "team").await;
    host_is_known(&database).await;
    let (one, two) = (first.api(&key), second.api(&key));
    let ids = futures::future::join_all((0..8).map(|_| one.create_running())).await;
    for (act, status) in [("pause", "paused"), ("resume", "running")] {
        let acts = ids.iter().map(|id| {
            let (one, two) = (one.clone(), two.clone());
            async move { tokio::join!(one.act(id, act), two.act(id, act)) }
        });
        for (a, b) in futures::future::join_all(acts).await {
            assert_eq!((a.status.as_u16(), b.status.as_u16()), (202, 202));
        }
        for id in &ids {
            two.wait_status(id, status).await;
            assert_eq!(host.calls(act, id), 1, "asked once, by one of them");
        }
    }
}
