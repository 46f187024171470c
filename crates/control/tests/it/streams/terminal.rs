//! Sessions in terminals.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use wrenn_testkit::wait_until;

use super::{Socket, message, open_in, running, say};
use crate::harness::{SOON, World};

async fn open(world: &World, id: &str) -> Socket {
    open_in(world, &format!("{id}/pty")).await
}

/// Starts a line of shell in a terminal; the session's tag.
async fn start(socket: &mut Socket, line: &str) -> String {
    say(socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", line]})).await;
    started(socket).await
}

async fn started(socket: &mut Socket) -> String {
    let frame = text(socket).await;
    let tag = frame["tag"].as_str().unwrap_or_else(|| panic!("no tag in {frame}")).to_owned();
    assert!(frame["type"] == "started" && frame["pid"].as_u64().is_some_and(|pid| pid > 0), "{frame}");
    assert!(tag.len() == 12 && tag.starts_with("pty-") && tag[4..].bytes().all(|b| b.is_ascii_hexdigit()), "{tag}");
    tag
}

async fn text(socket: &mut Socket) -> Value {
    match message(socket).await.expect("a frame") {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("unexpected {other:?}"),
    }
}

/// Output up to and with these bytes.
async fn until(socket: &mut Socket, wanted: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match message(socket).await {
            Some(Message::Binary(bytes)) => seen.extend_from_slice(&bytes),
            other => panic!("{other:?} before {wanted:?}, after {:?}", String::from_utf8_lossy(&seen)),
        }
        if seen.windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
}

/// All output to the end, its frames counted, and the last frame.
async fn rest(socket: &mut Socket) -> (Vec<u8>, usize, Value) {
    let (mut seen, mut frames) = (Vec::new(), 0);
    loop {
        match message(socket).await.expect("a frame") {
            Message::Binary(bytes) => {
                frames += 1;
                seen.extend_from_slice(&bytes);
            }
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                if matches!(frame["type"].as_str(), Some("exit")) || frame["fatal"] == json!(true) {
                    assert_eq!(message(socket).await, None, "closed after {frame}");
                    return (seen, frames, frame);
                }
                assert_eq!(frame["type"], "ping", "{frame}");
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn type_in(socket: &mut Socket, bytes: &[u8]) {
    socket.send(Message::binary(bytes.to_vec())).await.expect("sends");
}

#[tokio::test]
async fn a_session_gets_what_it_was_asked_for_and_ends_with_its_exit() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    let line = "stty size; pwd; echo $GREETING-$TERM; exit 3";
    say(
        &mut socket,
        json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", line], "cols": 100, "rows": 30, "cwd": "/usr",
            "envs": {"GREETING": "hello"}}),
    )
    .await;
    started(&mut socket).await;
    let (seen, _, last) = rest(&mut socket).await;
    assert_eq!(String::from_utf8_lossy(&seen), "30 100\r\n/usr\r\nhello-xterm-256color\r\n");
    assert_eq!(last, json!({"type": "exit", "exit_code": 3}));
}

#[tokio::test]
async fn keystrokes_and_resizes_are_taken_in_order_even_before_the_start_is_known() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-i"], "envs": {"PS1": ""}})).await;
    // As published clients do: all of it before a single frame was read.
    for number in 0..50 {
        type_in(&mut socket, format!("echo line-$(({number} + 1000))\n").as_bytes()).await;
    }
    for (cols, rows) in [(81, 25), (0, 40), (90, 0), (132, 43)] {
        say(&mut socket, json!({"type": "resize", "cols": cols, "rows": rows})).await;
    }
    type_in(&mut socket, b"stty size\n").await;
    say(&mut socket, json!({"type": "input", "data": BASE64.encode("exit 5\n")})).await;
    started(&mut socket).await;
    let (seen, _, last) = rest(&mut socket).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    // The echo and the prompt may stand before a line.
    let lines: Vec<&str> = seen.split("line-1").skip(1).map(|rest| &rest[..3]).collect();
    let expected: Vec<String> = (0..50).map(|number| format!("{number:03}")).collect();
    assert_eq!(lines, expected, "{seen}");
    assert!(seen.contains("43 132\r\n"), "{seen}");
    assert_eq!(last, json!({"type": "exit", "exit_code": 5}));
}

#[tokio::test]
async fn a_paste_of_ten_megabytes_comes_back_byte_for_byte() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    let tag = start(&mut socket, "stty raw -echo; echo ready; exec cat").await;
    until(&mut socket, "ready").await;
    // Every byte, in an order that does not repeat.
    let paste: Vec<u8> = (0..10_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut to, mut from) = socket.split();
    let sent = paste.clone();
    let sending = tokio::spawn(async move {
        let (one, many) = sent.split_at(4 * 1024 * 1024);
        to.send(Message::binary(one.to_vec())).await.expect("sends");
        for piece in many.chunks(30_011) {
            to.send(Message::binary(piece.to_vec())).await.expect("sends");
        }
        to
    });
    let mut seen = Vec::with_capacity(paste.len());
    while seen.len() < paste.len() {
        match tokio::time::timeout(SOON, from.next()).await.expect("in time").expect("open").expect("whole") {
            // The line end of "ready" is of the time before raw mode or after it.
            Message::Binary(bytes) if seen.is_empty() => {
                let skip = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                seen.extend_from_slice(&bytes[skip..]);
            }
            Message::Binary(bytes) => seen.extend_from_slice(&bytes),
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(seen == paste, "{} bytes of {}", seen.len(), paste.len());
    drop(sending.await.expect("sent"));
    assert_eq!(world.api.delete(&format!("/v1/capsules/{id}/processes/{tag}")).await.status, 204);
}

#[tokio::test]
async fn older_clients_get_base64_when_their_first_frame_asks_for_it() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    let line = "stty raw -echo; printf ready; head -c 3 | od -An -tx1; exit 0";
    say(&mut socket, json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", line], "encoding": "base64"})).await;
    started(&mut socket).await;
    let mut seen = String::new();
    let mut typed = false;
    let last = loop {
        let frame = text(&mut socket).await;
        if frame["type"] != "output" {
            break frame;
        }
        let bytes = BASE64.decode(frame["data"].as_str().expect("text")).expect("base64");
        seen.push_str(&String::from_utf8_lossy(&bytes));
        if seen.contains("ready") && !typed {
            typed = true;
            say(&mut socket, json!({"type": "input", "data": BASE64.encode([0xff, 0x00, 0x41])})).await;
        }
    };
    assert!(seen.contains("ff 00 41"), "{seen}");
    assert_eq!(last, json!({"type": "exit", "exit_code": 0}));
}

#[tokio::test]
async fn a_session_outlives_its_socket_and_its_tag_leads_back() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    let tag = start(&mut socket, "echo first; while read x; do echo got-$x; done").await;
    until(&mut socket, "first").await;
    drop(socket);
    let mut again = open(&world, &id).await;
    say(&mut again, json!({"type": "connect", "tag": tag})).await;
    assert_eq!(started(&mut again).await, tag);
    until(&mut again, "first").await;
    let mut beside = open(&world, &id).await;
    say(&mut beside, json!({"type": "connect", "tag": tag})).await;
    started(&mut beside).await;
    type_in(&mut again, b"one\n").await;
    type_in(&mut beside, b"two\n").await;
    for socket in [&mut again, &mut beside] {
        let mut seen = until(socket, "got-").await;
        while !(seen.contains("got-one") && seen.contains("got-two")) {
            seen += &until(socket, "\n").await;
        }
    }
    // Whoever leaves right after typing has typed all the same.
    type_in(&mut again, b"farewell\n").await;
    again.close(None).await.expect("closes");
    until(&mut beside, "got-farewell").await;
    say(&mut beside, json!({"type": "kill"})).await;
    assert_eq!(rest(&mut beside).await.2, json!({"type": "exit", "exit_code": 137}));
    let mut late = open(&world, &id).await;
    say(&mut late, json!({"type": "connect", "tag": tag})).await;
    started(&mut late).await;
    let (seen, _, last) = rest(&mut late).await;
    assert!(String::from_utf8_lossy(&seen).contains("got-farewell"));
    assert_eq!(last, json!({"type": "exit", "exit_code": 137}));
}

#[tokio::test]
async fn kill_ends_the_whole_session_also_when_it_reads_nothing() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    start(&mut socket, "stty raw -echo; sleep 1000 & echo ready; exec sleep 1000").await;
    until(&mut socket, "ready").await;
    // More than the terminal takes, less than what may wait.
    type_in(&mut socket, &vec![b'x'; 500_000]).await;
    say(&mut socket, json!({"type": "kill"})).await;
    assert_eq!(rest(&mut socket).await.2, json!({"type": "exit", "exit_code": 137}));
    wait_until("nothing runs", SOON, || async { (running(&world, &id).await == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_flood_of_small_prints_comes_in_few_frames_and_an_echo_at_once() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut socket = open(&world, &id).await;
    let line = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
    start(&mut socket, line).await;
    let (seen, frames, last) = rest(&mut socket).await;
    let expected: String = (0..20_000).map(|number| format!("{number}\r\n")).collect();
    assert!(seen == expected.as_bytes());
    assert_eq!(last, json!({"type": "exit", "exit_code": 0}));
    assert!(frames < 150, "{frames} frames");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_and_only_what_is_fatal_ends_the_session() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    for (frame, says) in [
        (json!({"type": "start", "cwd": "/no/such/directory"}), "/no/such/directory"),
        (json!({"type": "start", "cmd": "/no/such/program", "args": ["x"]}), "/no/such/program"),
        (json!({"type": "start", "user": "nobody-at-all"}), "nobody-at-all"),
        (json!({"type": "start", "args": ["x"]}), "args without a cmd"),
        (json!({"type": "connect", "tag": "pty-00000000"}), "no process with the tag"),
        (json!({"type": "connect", "tag": ""}), "tag"),
        (json!({"type": "resize", "cols": 1, "rows": 1}), "the first frame must be"),
        (json!({"type": "dance"}), "the first frame is not valid"),
    ] {
        let mut socket = open(&world, &id).await;
        say(&mut socket, frame.clone()).await;
        let error = text(&mut socket).await;
        assert_eq!((&error["type"], &error["fatal"]), (&json!("error"), &json!(true)), "{frame}: {error}");
        assert!(error["data"].as_str().is_some_and(|text| text.contains(says)), "{frame}: {error}");
        assert_eq!(message(&mut socket).await, None);
    }
    let mut socket = open_in(&world, "cl-0000000000000000000000000/pty").await;
    say(&mut socket, json!({"type": "start"})).await;
    type_in(&mut socket, b"exit\n").await;
    let error = text(&mut socket).await;
    assert!(error["data"].as_str().is_some_and(|text| text.contains("no capsule")), "{error}");

    let mut socket = open(&world, &id).await;
    start(&mut socket, "echo ready; read x; exit 4").await;
    until(&mut socket, "ready").await;
    for bad in [json!({"type": "dance"}), json!({"type": "input", "data": "%"}), json!({"type": "start"})] {
        say(&mut socket, bad.clone()).await;
        let mut error = message(&mut socket).await.expect("a frame");
        while error.is_binary() {
            error = message(&mut socket).await.expect("a frame");
        }
        let error: Value = serde_json::from_str(error.to_text().expect("text")).expect("JSON");
        assert_eq!((&error["type"], &error["fatal"]), (&json!("error"), &json!(false)), "{bad}: {error}");
    }
    type_in(&mut socket, b"x\n").await;
    assert_eq!(rest(&mut socket).await.2, json!({"type": "exit", "exit_code": 4}));
}
