//! What HTTP clients expect of any server: statuses, the head of requests, ranges, what is static.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, SOON, World};

/// Sends bytes as they are, in pieces, and returns what comes back until the other side closes.
async fn raw(world: &World, pieces: &[&str]) -> String {
    let mut tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    tcp.set_nodelay(true).expect("set");
    for piece in pieces {
        tcp.write_all(piece.as_bytes()).await.expect("sends");
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, tcp.read_to_end(&mut answer)).await.expect("closes").expect("reads");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn with(world: &World, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = world.api.request(Method::GET, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.api.send(request.body(Full::<Bytes>::default()).expect("valid")).await
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let world = World::start().await;
    let ask =
        async |hosts: &str| raw(&world, &[&format!("GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")]).await;
    for good in ["Host: localhost\r\n", "Host: [::1]:8000\r\n", "host: any.example.com:1\r\n"] {
        assert!(ask(good).await.starts_with("HTTP/1.1 200 "), "{good:?}");
    }
    for bad in ["", "Host: a\r\nHost: a\r\n", "Host:\r\n", "Host: a/b\r\n", "Host: user@a\r\n", "Host: a b\r\n"] {
        let answer = ask(bad).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
        assert!(answer.contains("invalid_request") && answer.contains("Host"), "it says why: {answer}");
    }
    let old = raw(&world, &["GET /health HTTP/1.0\r\n\r\n"]).await;
    assert!(old.contains(" 200 "), "HTTP/1.0 needs none: {old}");
}

#[tokio::test]
async fn hundreds_of_headers_are_no_reason_to_refuse() {
    let world = World::start().await;
    let many: String = (0..180).map(|n| format!("X-{n}: v\r\n")).collect();
    let answer = raw(&world, &[&format!("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{many}\r\n")]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_preface_of_http2_may_come_in_pieces() {
    let world = World::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for at in [1, 3, 13, 14, 20] {
        let mut tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
        tcp.set_nodelay(true).expect("set");
        tcp.write_all(&preface[..at]).await.expect("sends");
        tokio::time::sleep(Duration::from_millis(30)).await;
        tcp.write_all(&preface[at..]).await.expect("sends");
        // An empty SETTINGS frame; the answer begins with the server's own.
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("sends");
        let mut frame = [0; 9];
        tokio::time::timeout(SOON, tcp.read_exact(&mut frame)).await.expect("in time").expect("a frame");
        assert_eq!(frame[3], 4, "SETTINGS, cut at {at}");
    }
}

#[tokio::test]
async fn refusals_have_the_status_that_says_what_to_change() {
    let world = World::start().await;
    let send = async |kind: Option<&str>, body: &str, path: &str| {
        let mut request = world.api.request(Method::POST, path);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        world.api.send(request.body(Full::from(body.to_owned())).expect("valid")).await
    };
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        send(kind, "{}", "/v1/capsules").await.is_error(415, "unsupported_media_type");
    }
    let id = world.api.create_running().await;
    let upload = format!("/v1/capsules/{id}/files/write");
    send(Some("application/json"), "{}", &upload).await.is_error(415, "unsupported_media_type");
    send(Some("multipart/form-data"), "{}", &upload).await.is_error(400, "invalid_request");
    // More than the only host has in all: waiting does not help, so nothing says when to come back.
    world.host.behave(|b| b.memory_mib = 4096);
    let store = world.database.store();
    wrenn_testkit::wait_until("the host says how little it has", SOON, || async {
        (store.host_loads().await.expect("loads")[0].memory_mib == 4096).then_some(())
    })
    .await;
    let never = world.api.post("/v1/capsules", json!({"memory_mb": 4096})).await;
    let text = never.is_error(422, "unprocessable");
    assert!(text.contains("ask for less") && !never.headers.contains_key("retry-after"), "{text}");
    // Full for now is another thing.
    world.api.post("/v1/capsules", json!({"memory_mb": 2048})).await;
    let later = world.api.post("/v1/capsules", json!({"memory_mb": 2048})).await;
    later.is_error(503, "no_hosts_available");
    assert!(later.headers.contains_key("retry-after"));
    let nobody = world.plane.api("wrn_nothing").get("/v1/capsules").await;
    nobody.is_error(401, "unauthorized");
    assert!(nobody.headers["www-authenticate"].to_str().expect("text").contains("X-API-Key"));
}

#[tokio::test]
async fn a_bad_query_is_refused_in_our_own_words() {
    let world = World::start().await;
    let text = world.api.get("/v1/snapshots?type=other").await.is_error(400, "invalid_request");
    assert!(text.starts_with("the query is not valid: ") && !text.contains("deserialize"), "{text}");
}

#[tokio::test]
async fn what_is_static_is_sent_once_and_small() {
    let world = World::start().await;
    for path in ["/openapi.yaml", "/docs/", "/docs/swagger-ui.css", "/device", "/device/app.js"] {
        let whole = with(&world, path, &[]).await;
        assert_eq!((whole.status.as_u16(), whole.headers.contains_key("content-encoding")), (200, false), "{path}");
        let tag = whole.headers["etag"].to_str().expect("text").to_owned();
        let again = with(&world, path, &[("if-none-match", &tag)]).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
        let small = with(&world, path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(small.headers["content-encoding"], "gzip", "{path}");
        assert!(small.body.len() < whole.body.len(), "{path}");
    }
}

#[tokio::test]
async fn a_part_of_a_file_can_be_asked_for() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"0123456789").expect("written");
    let ask = async |range: &str, route: &str| {
        let request = world.api.request(Method::POST, &format!("/v1/capsules/{id}/files/{route}"));
        let body = json!({"path": file.path()}).to_string();
        let request = request.header("content-type", "application/json").header("range", range);
        world.api.send(request.body(Full::from(body)).expect("valid")).await
    };
    for route in ["read", "stream/read"] {
        for (range, part, of) in [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=-3", "789", "bytes 7-9/10")] {
            let answer = ask(range, route).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (206, part.as_bytes()), "{route} {range}");
            assert_eq!(answer.headers["content-range"], of);
        }
        ask("bytes=10-", route).await.is_error(416, "range_not_satisfiable");
        assert_eq!(ask("lines=1-2", route).await.body, "0123456789", "what is not understood is ignored");
    }
}

#[tokio::test]
async fn a_filter_or_field_nobody_knows_is_refused_by_its_name() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    for (path, name) in [
        ("/v1/capsules?state=running".to_owned(), "state"),
        ("/v1/snapshots?type=base&kind=x".to_owned(), "kind"),
        (format!("/v1/capsules/{id}?fields=id"), "fields"),
        (format!("/v1/capsules/{id}/metrics?span=5m"), "span"),
        ("/v1/capsules/usage?form=2026-01-01".to_owned(), "form"),
        ("/v1/teams?x".to_owned(), "x"),
        ("/v1/whoami?verbose=1".to_owned(), "verbose"),
    ] {
        let text = world.api.get(&path).await.is_error(400, "invalid_request");
        assert!(text.contains(&format!("{name:?}")), "{path}: {text}");
    }
    for good in ["/v1/snapshots?type=base", "/v1/capsules?", "/v1/capsules/stats?range=1h", "/health", "/docs/?x=1"] {
        assert_eq!(world.api.get(good).await.status, 200, "{good}");
    }
    world.api.post("/v1/snapshots?replace=true", json!({"sandbox_id": id})).await.is_error(400, "invalid_request");
    for (path, body, name) in [
        ("/v1/capsules".to_owned(), json!({"memory": 512}), "memory"),
        (format!("/v1/capsules/{id}/fork"), json!({"counts": 2}), "counts"),
        (format!("/v1/capsules/{id}/resume"), json!({"timeout": 2}), "timeout"),
        (format!("/v1/capsules/{id}/exec"), json!({"cmd": "true", "shell": true}), "shell"),
        (format!("/v1/capsules/{id}/files/list"), json!({"path": "/", "recursive": true}), "recursive"),
        ("/v1/snapshots".to_owned(), json!({"sandbox_id": id, "overwrite": true}), "overwrite"),
        ("/v1/auth/login".to_owned(), json!({"email": "a@b.io", "password": "x", "remember": true}), "remember"),
    ] {
        let text = world.api.post(&path, body).await.is_error(400, "invalid_request");
        assert!(text.contains(name), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused_in_words() {
    let world = World::start().await;
    let many: String = (0..300).map(|n| format!("X-{n}: v\r\n")).collect();
    let good = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, status, says) in [
        ("NONSENSE\r\n\r\n".to_owned(), "400", "not valid HTTP"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431", "200 headers"),
        // On a connection that served a request before.
        (format!("{good}GET / HTTP/1.1\r\nbad header\r\n\r\n"), "400", "not valid HTTP"),
    ] {
        let answers = raw(&world, &[&request]).await;
        let last = answers.rsplit("HTTP/1.1 ").next().expect("an answer");
        assert!(last.starts_with(status) && last.contains(says), "{answers}");
        let body = last.split("\r\n\r\n").nth(1).expect("a body");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "the envelope: {body}");
    }
}
