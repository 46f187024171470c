//! The WebSocket of exec/stream with a real envd.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use wrenn_testkit::wait_until;

use super::{Socket, hear, hear_all, open as open_at, running, say};
use crate::harness::{SOON, World};

async fn open(world: &World, id: &str) -> Socket {
    open_at(&world.plane.addr().to_string(), &world.key, &format!("/v1/capsules/{id}/exec/stream")).await
}

#[tokio::test]
async fn output_comes_as_frames_and_ends_with_the_exit() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "echo €; echo err >&2; cat; exit 4"]}))
        .await;
    let (stdout, stderr, last) = hear_all(&mut socket).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("€\n", "err\n"));
    assert_eq!(last, Some(json!({"type": "exit", "exit_code": 4})));
    assert_eq!(hear(&mut socket).await, None, "closed after the exit");
}

#[tokio::test]
async fn binary_frames_carry_every_byte_both_ways() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "cat; echo done >&2", "stdin": true, "binary": true})).await;
    assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "start");
    let input: Vec<u8> = (0..=255u8).cycle().take(2 * 1024 * 1024).collect();
    let (mut to, mut from) = socket.split();
    let sending = input.clone();
    let feed = tokio::spawn(async move {
        for chunk in sending.chunks(50_000) {
            to.send(Message::binary(chunk.to_vec())).await.expect("sends");
        }
        to.send(Message::text(json!({"type": "stdin_eof"}).to_string())).await.expect("sends");
        to
    });
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = loop {
        match tokio::time::timeout(SOON, from.next()).await.expect("in time").expect("open").expect("whole") {
            Message::Binary(frame) if frame[0] == 1 => stdout.extend_from_slice(&frame[1..]),
            Message::Binary(frame) if frame[0] == 2 => stderr.extend_from_slice(&frame[1..]),
            Message::Text(text) => break serde_json::from_str::<Value>(&text).expect("JSON"),
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    drop(feed.await.expect("fed"));
    assert_eq!(exit, json!({"type": "exit", "exit_code": 0}));
    assert!(stdout == input, "{} of {} bytes", stdout.len(), input.len());
    assert_eq!(stderr, b"done\n");
}

#[tokio::test]
async fn failures_after_the_upgrade_are_said_inside() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    for (frame, says) in [
        (json!({"type": "start", "cmd": ""}), "cmd is required"),
        (json!({"type": "stop"}), "first frame"),
        (json!({"type": "what"}), "not valid"),
        (json!({"type": "start", "cmd": "true", "cwd": "/no/such"}), ""),
    ] {
        let mut socket = open(&world, &id).await;
        say(&mut socket, frame.clone()).await;
        let (_, _, last) = hear_all(&mut socket).await;
        let last = last.unwrap_or_else(|| panic!("no error for {frame}"));
        assert_eq!(last["type"], "error", "{frame}");
        assert!(last["data"].as_str().is_some_and(|text| text.contains(says)), "{last}");
    }
    let mut socket = open(&world, "cl-0000000000000000000000000").await;
    say(&mut socket, json!({"type": "start", "cmd": "true"})).await;
    let error = hear(&mut socket).await.expect("a frame");
    assert!(error["data"].as_str().is_some_and(|text| text.contains("no capsule")), "{error}");
    let plain = world.api.get(&format!("/v1/capsules/{id}/exec/stream")).await;
    plain.is_error(400, "invalid_request");
}

#[tokio::test]
async fn stop_and_hanging_up_end_the_process_group() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    for stop in [true, false] {
        let mut socket = open(&world, &id).await;
        say(&mut socket, json!({"type": "start", "cmd": "sleep 1000 & sleep 1000"})).await;
        assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "start");
        assert_eq!(running(&world, &id).await, 1);
        if stop {
            say(&mut socket, json!({"type": "stop"})).await;
            assert_eq!(hear(&mut socket).await, None);
        }
        drop(socket);
        wait_until("nothing runs", SOON, || async { (running(&world, &id).await == 0).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_slow_reader_loses_nothing() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "head -c 20000000 /dev/zero | tr '\\0' x; echo end"})).await;
    // Nothing is read until the process, if nobody slowed it, would long be done.
    wait_until("it runs or ran", SOON, || async { (running(&world, &id).await <= 1).then_some(()) }).await;
    let (stdout, _, last) = hear_all(&mut socket).await;
    assert_eq!(last, Some(json!({"type": "exit", "exit_code": 0})));
    assert_eq!(stdout.len(), 20_000_004);
    assert!(stdout.ends_with("xend\n"));
}
