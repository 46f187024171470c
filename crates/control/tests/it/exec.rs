//! Commands in a real envd.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use wrenn_domain::limits::EXEC_OUTPUT_BYTES_MAX;
use wrenn_testkit::wait_until;

use crate::harness::{Answer, SOON, World, blurred};

async fn exec(world: &World, id: &str, body: Value) -> Answer {
    world.api.post(&format!("/v1/capsules/{id}/exec"), body).await
}

async fn processes(world: &World, id: &str) -> Vec<Value> {
    let list = world.api.get(&format!("/v1/capsules/{id}/processes")).await.json();
    list["processes"].as_array().cloned().expect("a list, never null")
}

#[tokio::test]
async fn a_command_runs_and_its_output_comes_back() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let answer = exec(&world, &id, json!({"cmd": "echo out; echo err >&2; exit 3"})).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    insta::assert_json_snapshot!("exec", blurred(answer.json()));

    for (body, stdout, exit_code) in [
        (json!({"cmd": "/bin/echo", "args": ["a b", "$HOME", "ü"]}), "a b $HOME ü\n", 0),
        (json!({"cmd": "echo $WHO", "envs": {"WHO": "me"}}), "me\n", 0),
        (json!({"cmd": "pwd", "cwd": "/usr"}), "/usr\n", 0),
        (json!({"cmd": "cat", "stdin": "fed"}), "fed", 0),
        (json!({"cmd": "cat", "stdin": ""}), "", 0),
        (json!({"cmd": "cat", "stdin": BASE64.encode("fed"), "stdin_encoding": "base64"}), "fed", 0),
        (json!({"cmd": "cat"}), "", 0),
        (json!({"cmd": "exit 7", "stdin": "not read"}), "", 7),
        (json!({"cmd": "kill -9 $$"}), "", 137),
        (json!({"cmd": "kill -15 $$"}), "", 143),
        (json!({"cmd": "/bin/sh", "args": ["-c", "exit 255"]}), "", 255),
    ] {
        let answer = exec(&world, &id, body.clone()).await;
        assert_eq!(answer.status, 200, "{body} {:?}", answer.body);
        let result = answer.json();
        assert_eq!(
            (result["stdout"].as_str(), result["exit_code"].as_i64()),
            (Some(stdout), Some(exit_code)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn output_that_is_no_text_comes_as_base64_in_both_streams() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let result = exec(&world, &id, json!({"cmd": "printf '\\377\\000x'; echo fine >&2"})).await.json();
    assert_eq!(result["encoding"], "base64");
    assert_eq!(BASE64.decode(result["stdout"].as_str().expect("text")).expect("base64"), b"\xff\0x");
    assert_eq!(BASE64.decode(result["stderr"].as_str().expect("text")).expect("base64"), b"fine\n");
}

#[tokio::test]
async fn commands_that_cannot_be_are_refused() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    for (body, status, code) in [
        (json!({}), 400, "invalid_request"),
        (json!({"cmd": ""}), 400, "invalid_request"),
        (json!({"cmd": "a\0b"}), 400, "invalid_request"),
        (json!({"cmd": "true", "timeout_sec": 0}), 400, "invalid_request"),
        (json!({"cmd": "true", "timeout_sec": 4000}), 400, "invalid_request"),
        (json!({"cmd": "true", "cwd": "/no/such/dir"}), 400, "invalid_request"),
        (json!({"cmd": "/no/such/program", "args": ["x"]}), 400, "invalid_request"),
        (json!({"cmd": "true", "user": "nobody-of-that-name"}), 400, "invalid_request"),
        (json!({"cmd": "cat", "stdin": "%%%", "stdin_encoding": "base64"}), 400, "invalid_request"),
        (json!({"cmd": "cat", "stdin": "x".repeat(1024 * 1024 + 1)}), 413, "payload_too_large"),
        (json!({"cmd": "cat", "stdin": "x", "background": true}), 400, "invalid_request"),
        (json!({"cmd": "true", "background": true, "tag": "123"}), 400, "invalid_request"),
    ] {
        let message = exec(&world, &id, body.clone()).await.is_error(status, code);
        assert!(!message.is_empty(), "{body}");
    }
}

#[tokio::test]
async fn a_megabyte_of_input_arrives_whole() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let input = "0123456789abcde\n".repeat(64 * 1024);
    let result = exec(&world, &id, json!({"cmd": "sha256sum; ", "stdin": input})).await.json();
    let here = <sha2::Sha256 as sha2::Digest>::digest(input.as_bytes());
    assert_eq!(result["stdout"].as_str().expect("text").split(' ').next(), Some(hex::encode(here).as_str()));
}

#[tokio::test]
async fn a_command_past_its_time_is_killed_with_its_children() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let began = Instant::now();
    let body = json!({"cmd": "sleep 1000 & sleep 1000", "timeout_sec": 1});
    exec(&world, &id, body).await.is_error(504, "timeout");
    assert!(began.elapsed() < Duration::from_secs(10));
    wait_until("nothing runs", SOON, || async { processes(&world, &id).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_command_that_prints_without_end_is_killed() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let message = exec(&world, &id, json!({"cmd": "yes"})).await.is_error(413, "payload_too_large");
    assert!(message.contains("exec/stream"), "{message}");
    wait_until("nothing runs", SOON, || async { processes(&world, &id).await.is_empty().then_some(()) }).await;
    let fits = format!("head -c {EXEC_OUTPUT_BYTES_MAX} /dev/zero");
    assert_eq!(exec(&world, &id, json!({"cmd": fits})).await.status, 200);
}

#[tokio::test]
async fn a_caller_who_hangs_up_ends_the_command() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let (api, path) = (world.api.clone(), format!("/v1/capsules/{id}/exec"));
    let caller = tokio::spawn(async move { api.post(&path, json!({"cmd": "sleep 1000"})).await });
    wait_until("it runs", SOON, || async { (processes(&world, &id).await.len() == 1).then_some(()) }).await;
    caller.abort();
    // The pooled connection of the aborted caller is closed with its request.
    wait_until("nothing runs", SOON, || async { processes(&world, &id).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_background_process_goes_on_and_is_found_by_tag_and_pid() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let named = exec(&world, &id, json!({"cmd": "sleep 1000", "background": true, "tag": "napper"})).await;
    assert_eq!(named.status, 202, "{:?}", named.body);
    assert_eq!(named.json()["tag"], "napper");
    let unnamed = exec(&world, &id, json!({"cmd": "/bin/sleep", "args": ["1000"], "background": true})).await.json();
    let tag = unnamed["tag"].as_str().expect("a tag");
    assert!(tag.len() == 13 && tag.starts_with("proc-"), "{tag}");
    let pid = unnamed["pid"].as_u64().expect("a pid");

    let list = processes(&world, &id).await;
    assert_eq!(list.len(), 2, "{list:?}");
    let found = list.iter().find(|p| p["pid"] == pid).expect("listed");
    assert_eq!((found["cmd"].as_str(), found["args"][0].as_str()), (Some("/bin/sleep"), Some("1000")));
    // One tag is one process.
    let twice = exec(&world, &id, json!({"cmd": "true", "background": true, "tag": "napper"})).await;
    twice.is_error(409, "already_exists");

    let path = format!("/v1/capsules/{id}/processes");
    world.api.delete(&format!("{path}/napper?signal=SIGNONE")).await.is_error(400, "invalid_request");
    world.api.delete(&format!("{path}/0")).await.is_error(400, "invalid_request");
    world.api.delete(&format!("{path}/99999999999")).await.is_error(400, "invalid_request");
    world.api.delete(&format!("{path}/4000000000")).await.is_error(404, "not_found");
    world.api.delete(&format!("{path}/nobody")).await.is_error(404, "not_found");
    assert_eq!(world.api.delete(&format!("{path}/napper?signal=SIGTERM")).await.status, 204);
    assert_eq!(world.api.delete(&format!("{path}/{pid}")).await.status, 204);
    wait_until("both are gone", SOON, || async { processes(&world, &id).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_command_whose_capsule_changes_under_it_says_how() {
    for (act, says) in [("delete", "was deleted"), ("crash", "ended while")] {
        let Some(world) = World::with_envd().await else { return };
        let id = world.api.create_running().await;
        let mark = tempfile::tempdir().expect("a directory");
        let begun = mark.path().join("begun");
        let command = tokio::spawn({
            let (api, path) = (world.api.clone(), format!("/v1/capsules/{id}/exec"));
            let body = json!({"cmd": format!("touch {}; sleep 60", begun.display()), "timeout_sec": 100});
            async move { api.post(&path, body).await }
        });
        wait_until("the command runs", SOON, || async { begun.exists().then_some(()) }).await;
        match act {
            "delete" => drop(world.api.delete(&format!("/v1/capsules/{id}")).await),
            _ => world.host.crash(&id),
        }
        let answer = tokio::time::timeout(SOON, command).await.expect("in time").expect("no panic");
        let text = answer.is_error(409, "invalid_state");
        assert!(text.contains(says), "{act}: {text}");
    }
}
