//! The API's WebSockets with a real envd.

mod attach;
mod bounds;
mod exec;
mod terminal;
mod weight;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{Api, SOON, World};

pub type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket of the API as published clients do.
pub async fn open(addr: &str, key: &str, path: &str) -> Socket {
    let tcp = TcpStream::connect(addr).await.expect("connects");
    let mut request = format!("ws://{addr}{path}").into_client_request().expect("valid");
    request.headers_mut().insert("x-api-key", key.parse().expect("valid"));
    let (socket, answer) = tokio_tungstenite::client_async(request, tcp).await.expect("upgraded");
    assert!(answer.headers().get("sec-websocket-extensions").is_none(), "nothing was offered");
    socket
}

/// The same below `/v1/capsules/`.
pub async fn open_in(world: &World, path: &str) -> Socket {
    open(&world.plane.addr().to_string(), &world.key, &format!("/v1/capsules/{path}")).await
}

pub async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.expect("sends");
}

/// The next message with content; none when the socket closed.
pub async fn message(socket: &mut Socket) -> Option<Message> {
    loop {
        match tokio::time::timeout(SOON, socket.next()).await.expect("in time") {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(other)) => return Some(other),
        }
    }
}

/// The next text frame; none when the socket closed.
pub async fn hear(socket: &mut Socket) -> Option<Value> {
    match message(socket).await? {
        Message::Text(text) => Some(serde_json::from_str(&text).expect("JSON")),
        other => panic!("unexpected {other:?}"),
    }
}

/// All frames to the end, with pieces of one stream joined.
pub async fn hear_all(socket: &mut Socket) -> (String, String, Option<Value>) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    while let Some(frame) = hear(socket).await {
        let data = || frame["data"].as_str().expect("text").to_owned();
        match frame["type"].as_str() {
            Some("start") => assert!(frame["pid"].as_u64().is_some_and(|pid| pid > 0)),
            Some("stdout") => stdout.push_str(&data()),
            Some("stderr") => stderr.push_str(&data()),
            Some("exit" | "error") => return (stdout, stderr, Some(frame)),
            other => panic!("unexpected {other:?}"),
        }
    }
    (stdout, stderr, None)
}

/// Number of processes that run in a capsule.
pub async fn running(world: &World, id: &str) -> usize {
    let list = world.api.get(&format!("/v1/capsules/{id}/processes")).await.json();
    list["processes"].as_array().expect("a list").len()
}

/// Starts a line of shell in the background; its pid.
pub async fn background(api: &Api, id: &str, tag: &str, line: &str) -> u64 {
    let body = json!({"cmd": "/bin/sh", "args": ["-c", line], "background": true, "tag": tag});
    let answer = api.post(&format!("/v1/capsules/{id}/exec"), body).await;
    assert_eq!(answer.status, 202, "{:?}", answer.body);
    answer.json()["pid"].as_u64().expect("a pid")
}
