//! Following processes.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use wrenn_testkit::wait_until;

use super::{background, hear, hear_all, message, open_in, running};
use crate::harness::{SOON, World};

#[tokio::test]
async fn several_follow_one_process_by_pid_and_by_tag_from_what_it_printed_before() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let line = "echo before; echo err >&2; until [ -e go ]; do sleep 0.01; done; echo after; exit 7";
    let pid = background(&world.api, &id, "job", line).await;
    let mut sockets = Vec::new();
    for name in [pid.to_string(), "job".to_owned()] {
        let mut socket = open_in(&world, &format!("{id}/processes/{name}/stream")).await;
        assert_eq!(hear(&mut socket).await, Some(json!({"type": "start", "pid": pid})));
        // Two pipes: which of them is read first is nobody's promise.
        let mut printed = [hear(&mut socket).await, hear(&mut socket).await].map(|frame| frame.expect("a frame"));
        printed.sort_by_key(|frame| frame["type"] == "stderr");
        assert_eq!(printed[0], json!({"type": "stdout", "data": "before\n"}));
        assert_eq!(printed[1], json!({"type": "stderr", "data": "err\n"}));
        sockets.push(socket);
    }
    // One that leaves takes nothing along.
    let mut leaver = open_in(&world, &format!("{id}/processes/job/stream")).await;
    assert_eq!(hear(&mut leaver).await.expect("a frame")["type"], "start");
    leaver.close(None).await.expect("closes");
    assert_eq!(world.api.upload(&format!("/v1/capsules/{id}/files/write"), "go", b"").await.status, 204);
    for mut socket in sockets {
        let (stdout, _, last) = hear_all(&mut socket).await;
        assert_eq!((stdout.as_str(), last), ("after\n", Some(json!({"type": "exit", "exit_code": 7}))));
        assert_eq!(message(&mut socket).await, None, "closed after the exit");
    }
    wait_until("it is over", SOON, || async { (running(&world, &id).await == 0).then_some(()) }).await;
    // It is over, and can still be asked.
    let mut late = open_in(&world, &format!("{id}/processes/job/stream")).await;
    let (stdout, stderr, last) = hear_all(&mut late).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("before\nafter\n", "err\n"));
    assert_eq!(last, Some(json!({"type": "exit", "exit_code": 7})));
}

#[tokio::test]
async fn without_following_the_recent_output_comes_whole_and_then_the_end() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    background(&world.api, &id, "log", "head -c 1000000 /dev/zero | tr '\\0' a; echo; printf '\\377z'; sleep 1000")
        .await;
    let kept = wrenn_domain::limits::PROCESS_REPLAY_BYTES;
    wait_until("it has printed all", SOON, || async {
        let mut socket = open_in(&world, &format!("{id}/processes/log/stream?follow=false")).await;
        let (stdout, _, last) = hear_all(&mut socket).await;
        assert_eq!(last, None, "neither an exit nor an error");
        stdout.ends_with("a\n\u{fffd}z").then(|| assert_eq!(stdout.len(), kept + '\u{fffd}'.len_utf8() - 1))
    })
    .await;
    let mut socket = open_in(&world, &format!("{id}/processes/log/stream?follow=false&binary=true")).await;
    assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "start");
    let mut bytes = Vec::new();
    while let Some(Message::Binary(frame)) = message(&mut socket).await {
        assert_eq!(frame[0], 1);
        bytes.extend_from_slice(&frame[1..]);
    }
    assert!(bytes.len() == kept && bytes.ends_with(b"a\n\xffz"));
    assert_eq!(running(&world, &id).await, 1);
    background(&world.api, &id, "endless", "exec yes").await;
    wait_until("it ends although the process does not", SOON, || async {
        let mut socket = open_in(&world, &format!("{id}/processes/endless/stream?follow=false")).await;
        let (stdout, _, last) = hear_all(&mut socket).await;
        assert_eq!(last, None);
        (stdout.len() >= kept).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_followed_is_said_inside() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    for (path, says) in [
        (format!("{id}/processes/999999/stream"), "no process 999999"),
        (format!("{id}/processes/nobody/stream"), "no process with the tag"),
        (format!("{id}/processes/0/stream"), "a pid is a number"),
        (format!("{id}/processes/x/stream?follow=perhaps"), "query"),
        ("cl-0000000000000000000000000/processes/x/stream".to_owned(), "no capsule"),
        ("nonsense/processes/x/stream".to_owned(), "cl-"),
    ] {
        let mut socket = open_in(&world, &path).await;
        let error = hear(&mut socket).await.unwrap_or_else(|| panic!("no error for {path}"));
        assert_eq!(error["type"], "error", "{path}");
        assert!(error["data"].as_str().is_some_and(|text| text.contains(says)), "{path}: {error}");
        assert_eq!(message(&mut socket).await, None, "{path}");
    }
}
