//! What a WebSocket may cost, and how it ends.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use wrenn_control::context::Tuning;
use wrenn_control::fault::Faults;
use wrenn_domain::limits::{FRAME_BYTES_MAX, PROCESS_READERS_MAX, STREAMS_PER_SANDBOX_MAX};
use wrenn_testkit::host::{Guest, find_envd};
use wrenn_testkit::{Database, SimHost, wait_until};

use super::{background, hear, message, open, open_in, running, say};
use crate::harness::{Plane, SOON, World, host_is_known, new_key, quick};

async fn tuned(tuning: Tuning) -> Option<World> {
    let envd = find_envd()?;
    let database = Database::fresh().await;
    let host = SimHost::start(Guest::Envd(envd)).await;
    let plane = Plane::start_tuned(&database.url, &database, &host, Faults::default(), tuning).await;
    let key = new_key(&database, "team").await;
    let api = plane.api(&key);
    host_is_known(&database).await;
    Some(World { database, host, plane, api, key })
}

#[tokio::test]
async fn a_key_takes_so_many_streams_in_all_its_capsules_and_one_more_when_one_has_left() {
    let Some(world) = tuned(Tuning { streams_per_credential: 3, ..quick() }).await else { return };
    let addr = world.plane.addr().to_string();
    let capsules = [world.api.create_running().await, world.api.create_running().await];
    let other_key = new_key(&world.database, "team").await;
    let open_one = async |id: &str, key: &str| {
        let mut socket = open(&addr, key, &format!("/v1/capsules/{id}/pty")).await;
        say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "sleep 1000"]})).await;
        (hear(&mut socket).await.expect("a frame"), socket)
    };
    let mut sockets = Vec::new();
    for number in 0..3 {
        let (frame, socket) = open_one(&capsules[number % 2], &world.key).await;
        assert_eq!(frame["type"], "started", "{number}: {frame}");
        sockets.push(socket);
    }
    let (frame, _) = open_one(&capsules[1], &world.key).await;
    assert_eq!((&frame["type"], &frame["fatal"]), (&json!("error"), &json!(true)), "{frame}");
    assert!(frame["data"].as_str().is_some_and(|text| text.contains("has 3 streams open")), "{frame}");
    // Counted by the key that opened them, not by the team.
    assert_eq!(open_one(&capsules[0], &other_key).await.0["type"], "started");
    drop(sockets.pop());
    wait_until("a place is free", SOON, || async {
        (open_one(&capsules[0], &world.key).await.0["type"] == "started").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dropped_and_one_that_does_is_kept() {
    let tuning =
        Tuning { stream_ping: Duration::from_millis(200), stream_silence: Duration::from_millis(700), ..quick() };
    let Some(world) = tuned(tuning).await else { return };
    let id = world.api.create_running().await;
    let mut kept = open_in(&world, &format!("{id}/pty")).await;
    say(&mut kept, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "read x; exit 6"]})).await;
    let mut silent = open_in(&world, &format!("{id}/exec/stream")).await;
    say(&mut silent, json!({"type": "start", "cmd": "sleep 1000"})).await;
    assert_eq!(hear(&mut silent).await.expect("a frame")["type"], "start");
    // From here on nobody reads this socket, so nobody answers its pings. The other one is read all the time.
    let mut pings = 0;
    let reading = async {
        while let Some(frame) = message(&mut kept).await {
            let Message::Text(text) = frame else { continue };
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            pings += u32::from(frame["type"] == "ping");
            if pings == 12 {
                say(&mut kept, json!({"type": "pong"})).await;
                kept.send(Message::binary(b"x\n".to_vec())).await.expect("sends");
            }
            if frame["type"] == "exit" {
                return frame;
            }
        }
        panic!("closed after {pings} pings");
    };
    assert_eq!(reading.await, json!({"type": "exit", "exit_code": 6}));
    wait_until("the silent one's process is killed", SOON, || async {
        (running(&world, &id).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_beyond_the_bound_is_refused_with_the_bound() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open_in(&world, &format!("{id}/pty")).await;
    say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "sleep 1000"]})).await;
    assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "started");
    // The server may close before it has read all of it.
    let _ = socket.send(Message::binary(vec![b'x'; FRAME_BYTES_MAX + 1])).await;
    let error = hear(&mut socket).await.expect("a frame");
    assert_eq!((&error["type"], &error["fatal"]), (&json!("error"), &json!(true)), "{error}");
    assert!(error["data"].as_str().is_some_and(|text| text.contains(&FRAME_BYTES_MAX.to_string())), "{error}");
}

#[tokio::test]
async fn a_capsule_takes_so_many_streams_and_one_more_when_one_has_left() {
    let Some(world) = World::with_envd().await else { return };
    let (id, other) = (world.api.create_running().await, world.api.create_running().await);
    let processes = STREAMS_PER_SANDBOX_MAX.div_ceil(PROCESS_READERS_MAX) + 1;
    for number in 0..processes {
        background(&world.api, &id, &format!("job-{number}"), "sleep 1000").await;
    }
    let mut sockets = Vec::new();
    let open_one = async |number: usize| {
        let mut socket = open_in(&world, &format!("{id}/processes/job-{}/stream", number % processes)).await;
        (hear(&mut socket).await.expect("a frame"), socket)
    };
    for number in 0..STREAMS_PER_SANDBOX_MAX {
        let (frame, socket) = open_one(number).await;
        assert_eq!(frame["type"], "start", "{number}: {frame}");
        sockets.push(socket);
    }
    let (frame, _) = open_one(0).await;
    assert_eq!(frame["type"], "error");
    assert!(frame["data"].as_str().is_some_and(|text| text.contains(&STREAMS_PER_SANDBOX_MAX.to_string())), "{frame}");
    let mut elsewhere = open_in(&world, &format!("{other}/exec/stream")).await;
    say(&mut elsewhere, json!({"type": "start", "cmd": "true"})).await;
    assert_eq!(hear(&mut elsewhere).await.expect("a frame")["type"], "start");
    // Another team's wish to get in takes no place.
    let stranger = new_key(&world.database, "strangers").await;
    let path = format!("/v1/capsules/{id}/exec/stream");
    let mut refused = open(&world.plane.addr().to_string(), &stranger, &path).await;
    let said = hear(&mut refused).await.expect("a frame");
    assert!(said["data"].as_str().is_some_and(|text| text.contains("no capsule")), "{said}");
    drop(sockets.swap_remove(0));
    wait_until("a place is free", SOON, || async { (open_one(0).await.0["type"] == "start").then_some(()) }).await;
}

#[tokio::test]
async fn streams_end_with_the_key_they_were_opened_with_and_say_so() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = open_in(&world, &format!("{id}/pty")).await;
        say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "sleep 1000"]})).await;
        assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "started");
        sockets.push(socket);
    }
    sqlx::query("UPDATE team_api_keys SET revoked_at = now()")
        .execute(world.database.store().pool())
        .await
        .expect("revoked");
    for mut socket in sockets {
        let error = hear(&mut socket).await.expect("a frame");
        assert_eq!((&error["type"], &error["fatal"]), (&json!("error"), &json!(true)), "{error}");
        let close = tokio::time::timeout(SOON, socket.next()).await.expect("in time");
        assert!(matches!(&close, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1008), "{close:?}");
    }
}

#[tokio::test]
async fn a_stream_counts_as_activity_while_it_lasts() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open_in(&world, &format!("{id}/exec/stream")).await;
    say(&mut socket, json!({"type": "start", "cmd": "while :; do echo x; sleep 0.1; done"})).await;
    assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "start");
    let opened = Utc::now();
    let reading = async {
        while hear(&mut socket).await.is_some() {}
        panic!("closed early");
    };
    let looking = wait_until("it counts", SOON, || async {
        let capsule = world.api.get(&format!("/v1/capsules/{id}")).await.json();
        let active: DateTime<Utc> = capsule["last_active_at"].as_str()?.parse().ok()?;
        (active > opened + chrono::TimeDelta::seconds(3)).then_some(())
    });
    tokio::select! {
        () = reading => {}
        () = looking => {}
    }
}

#[tokio::test]
async fn the_console_is_read_as_plain_text() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let answer = world.api.get(&format!("/v1/capsules/{id}/console")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert!(String::from_utf8_lossy(&answer.body).starts_with(&format!("the console of {id}\r\n")));
    let none = world.api.get("/v1/capsules/cl-0000000000000000000000000/console").await;
    none.is_error(404, "not_found");
    let stranger = world.plane.api(&new_key(&world.database, "strangers").await);
    stranger.get(&format!("/v1/capsules/{id}/console")).await.is_error(404, "not_found");
}

#[tokio::test]
async fn a_server_that_ends_tells_its_clients_to_come_again() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open_in(&world, &format!("{id}/pty")).await;
    say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "sleep 1000"]})).await;
    assert_eq!(hear(&mut socket).await.expect("a frame")["type"], "started");
    let World { plane, host: _host, .. } = world;
    let reading = async {
        let error = hear(&mut socket).await.expect("a frame");
        assert!(error["data"].as_str().is_some_and(|text| text.contains("connect again")), "{error}");
        let close = tokio::time::timeout(SOON, socket.next()).await.expect("in time");
        assert!(matches!(&close, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1012), "{close:?}");
    };
    tokio::join!(plane.end(), reading);
}
