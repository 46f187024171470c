//! What was begun with a credential ends with it: transfers, commands, connections to private ports.

use std::time::{Duration, Instant};

use axum::extract::WebSocketUpgrade;
use axum::routing::get;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use wrenn_domain::limits::{KEY_CACHE_AGE_MAX, SESSION_CACHE_AGE_MAX};
use wrenn_store::redis::Redis;

use crate::harness::{SOON, World};
use crate::people::House;

/// Longest time something may go on after its credential ended, with what a busy machine adds.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// What a transfer or command would last if nothing ended it.
const LONG: Duration = Duration::from_secs(60);

/// A server in a capsule whose answers last.
async fn server() -> u16 {
    let router = axum::Router::new()
        .route("/slow", get(|| async { tokio::time::sleep(LONG).await }))
        .route(
            "/endless",
            get(|| async {
                let piece = Bytes::from(vec![7u8; 64 * 1024]);
                axum::body::Body::from_stream(futures::stream::repeat_with(move || {
                    Ok::<_, std::io::Error>(piece.clone())
                }))
            }),
        )
        .route(
            "/ws",
            get(|upgrade: WebSocketUpgrade| async move {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                })
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    port
}

/// One HTTP/1.1 connection of its own.
async fn stream(world: &World, mut request: Request<Full<Bytes>>) -> http::Response<Incoming> {
    *request.uri_mut() = request.uri().path().parse().expect("a path");
    if !request.headers().contains_key("host") {
        request.headers_mut().insert("host", "localhost".parse().expect("a value"));
    }
    let tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("speaks HTTP");
    tokio::spawn(connection);
    sender.send_request(request).await.expect("an answer")
}

/// Takes the world's key back, as `wrenn-cp key revoke` does.
async fn revoke(world: &World) -> Instant {
    let store = world.database.store();
    let key = store.key_list().await.expect("keys").remove(0);
    let hash = store.key_revoke(key.id).await.expect("revoked").expect("there is one");
    let redis = Redis::new(&world.database.redis_url, &world.database.redis_prefix).expect("a handle");
    redis.key_revoked(&hash).await.expect("told");
    Instant::now()
}

#[track_caller]
fn ended_soon(what: &str, since: Instant) {
    let late = since.elapsed();
    assert!(late < ENDS_WITHIN, "{what} ended {late:?} after its key was taken back");
}

#[test]
fn caches_of_credentials_are_no_older_than_a_second() {
    assert!(KEY_CACHE_AGE_MAX <= Duration::from_secs(1) && SESSION_CACHE_AGE_MAX <= Duration::from_secs(1));
}

#[tokio::test]
async fn private_ports_close_with_the_key_they_were_opened_with() {
    let world = World::start().await;
    let made = world.api.post("/v1/capsules", json!({"public_ports": false})).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    world.api.wait_status(&id, "running").await;
    let (port, url) = (server().await, world.plane.url(""));
    let host = format!("{port}-{id}.localhost");
    let ask = |path: &str| {
        let request = world.api.request(Method::GET, path).header("host", &host);
        request.body(Full::<Bytes>::default()).expect("valid")
    };
    let mut endless = stream(&world, ask("/endless")).await;
    assert_eq!(endless.status(), 200);
    endless.frame().await.expect("more").expect("whole");
    let mut upgrade = format!("{}/ws", url.replace("http://", "ws://")).into_client_request().expect("valid");
    upgrade.headers_mut().insert("host", host.parse().expect("a value"));
    upgrade.headers_mut().insert("x-api-key", world.key.parse().expect("a value"));
    let (mut socket, _) =
        tokio_tungstenite::client_async(upgrade, TcpStream::connect(world.plane.addr()).await.expect("connects"))
            .await
            .expect("a WebSocket");
    socket.send("hello".into()).await.expect("sent");
    assert_eq!(socket.next().await.expect("more").expect("whole").to_text().expect("text"), "hello");
    let slow = tokio::spawn({
        let (api, request) = (world.api.clone(), ask("/slow"));
        async move { api.send(request).await }
    });
    wrenn_testkit::wait_until("three tunnels are open", SOON, || async {
        (world.host.calls("tunnel", &id) >= 3).then_some(())
    })
    .await;

    let since = revoke(&world).await;
    let refused = tokio::time::timeout(SOON, slow).await.expect("in time").expect("no panic");
    assert_eq!((refused.status.as_u16(), refused.headers.contains_key("www-authenticate")), (401, true));
    ended_soon("an answer that was waited for", since);
    let end = tokio::time::timeout(SOON, async { while let Some(Ok(_)) = socket.next().await {} }).await;
    end.expect("the WebSocket ends");
    ended_soon("a WebSocket", since);
    // Nothing was read meanwhile: what lay in buffers is little, and then the connection is reset.
    let rest = tokio::time::timeout(SOON, async {
        loop {
            match endless.frame().await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    });
    assert!(rest.await.expect("the download ends").is_some_and(|end| end.is_err()), "half a file must not look whole");
    ended_soon("a download", since);
}

#[tokio::test]
async fn public_ports_stay_open_when_a_key_ends() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let host = format!("{}-{id}.localhost", server().await);
    let request = world.api.request(Method::GET, "/endless").header("host", &host);
    let mut endless = stream(&world, request.body(Full::default()).expect("valid")).await;
    revoke(&world).await;
    wrenn_testkit::wait_until("the key is dead", SOON, || async {
        (world.api.get("/v1/capsules").await.status == 401).then_some(())
    })
    .await;
    let mut bytes = 0;
    while bytes < 64 << 20 {
        bytes += endless.frame().await.expect("more").expect("whole").into_data().expect("data").len();
    }
}

#[tokio::test]
async fn commands_downloads_and_uploads_end_with_the_key_they_were_begun_with() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let dir = tempfile::Builder::new().prefix("wrenn-revoked-").tempdir().expect("a directory");
    let (large, upload) = (dir.path().join("large"), dir.path().join("upload"));
    std::fs::File::create(&large).and_then(|file| file.set_len(1 << 30)).expect("a sparse file");
    let post = |path: &str, body: Value| {
        let request = world.api.request(Method::POST, &format!("/v1/capsules/{id}/{path}"));
        request.header("content-type", "application/json").body(Full::from(body.to_string())).expect("valid")
    };
    let mut download = stream(&world, post("files/stream/read", json!({"path": large}))).await;
    assert_eq!(download.status(), 200);
    download.frame().await.expect("more").expect("whole");
    let command = tokio::spawn({
        let (api, mark) = (world.api.clone(), dir.path().join("begun"));
        let request = post("exec", json!({"cmd": format!("touch {}; sleep 60", mark.display()), "timeout_sec": 100}));
        async move { api.send(request).await }
    });
    // An upload that goes on for as long as it is let.
    let head = format!(
        "POST /v1/capsules/{id}/files/stream/write HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: multipart/form-data; boundary=XXX\r\n\r\n",
        world.key
    );
    let form = format!(
        "--XXX\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{}\r\n--XXX\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n",
        upload.display()
    );
    let mut uploading = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let answer = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        uploading.write_all(format!("{head}{:x}\r\n{form}\r\n", form.len()).as_bytes()).await.expect("sent");
        let mut answer = vec![0; 4096];
        loop {
            tokio::select! {
                count = uploading.read(&mut answer) => {
                    return String::from_utf8_lossy(&answer[..count.unwrap_or(0)]).into_owned();
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    let _ = uploading.write_all(b"4\r\ndata\r\n").await;
                }
            }
        }
    });
    wrenn_testkit::wait_until("the command runs", SOON, || async { dir.path().join("begun").exists().then_some(()) })
        .await;

    let since = revoke(&world).await;
    let refused = tokio::time::timeout(SOON, command).await.expect("in time").expect("no panic");
    refused.is_error(401, "unauthorized");
    ended_soon("a command", since);
    let answer = tokio::time::timeout(SOON, answer).await.expect("in time").expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    ended_soon("an upload", since);
    assert!(!upload.exists(), "half a file was written");
    let end = tokio::time::timeout(SOON, async {
        let mut bytes = 0;
        loop {
            match download.frame().await {
                Some(Ok(frame)) => bytes += frame.into_data().map_or(0, |data| data.len()),
                other => return (bytes, other.is_some_and(|end| end.is_err())),
            }
        }
    });
    let (bytes, is_cut) = end.await.expect("the download ends");
    assert!(is_cut && bytes < 1 << 30, "{bytes}");
    ended_soon("a download", since);
}

#[tokio::test]
async fn a_logout_and_a_lost_membership_end_a_wait_as_well() {
    let house = House::start().await;
    let mut owner = house.person("ann@example.com").await;
    let team = owner.me["team_id"].as_str().expect("a team").to_owned();
    let id = owner.post("/v1/capsules", json!({})).await.json()["id"].as_str().expect("an id").to_owned();
    wrenn_testkit::wait_until("it runs", SOON, || async {
        (owner.get(&format!("/v1/capsules/{id}")).await.json()["status"] == "running").then_some(())
    })
    .await;
    house.host.behave(|b| b.hold_captures = true);
    for by_logout in [true, false] {
        let email = if by_logout { "bob@example.com" } else { "eve@example.com" };
        let mut member = house.person(email).await;
        let user = member.me["user_id"].as_str().expect("an id").to_owned();
        let added = owner.post(&format!("/v1/teams/{team}/members"), json!({"email": email})).await;
        assert_eq!(added.status, 201, "{:?}", added.body);
        assert_eq!(member.post("/v1/auth/switch-team", json!({"team_id": team})).await.status, 200);
        let before = house.host.calls("fork", &id);
        let waiting = tokio::spawn({
            let (mut browser, path) = (member.clone(), format!("/v1/capsules/{id}/fork"));
            async move { browser.post(&path, json!({"count": 1})).await }
        });
        wrenn_testkit::wait_until("the host was asked", SOON, || async {
            (house.host.calls("fork", &id) > before).then_some(())
        })
        .await;
        if by_logout {
            assert_eq!(member.post("/v1/auth/logout", json!({})).await.status, 204);
        } else {
            assert_eq!(owner.delete(&format!("/v1/teams/{team}/members/{user}")).await.status, 204);
        }
        let since = Instant::now();
        let ended = tokio::time::timeout(SOON, waiting).await.expect("in time").expect("no panic");
        assert_eq!(ended.status, 401, "{:?}", ended.body);
        ended_soon("a fork's wait", since);
    }
}
