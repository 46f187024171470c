//! Whatever is wrong with a request, the answer is the error envelope with a request id.

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use serde_json::json;
use wrenn_domain::limits::JSON_BODY_BYTES_MAX;

use crate::harness::{World, blurred};

#[tokio::test]
async fn unknown_routes_and_methods_are_enveloped() {
    let world = World::start().await;
    let api = &world.api;
    api.get("/nothing").await.is_error(404, "not_found");
    api.get("/v1/capsules/a/b/c/d").await.is_error(404, "not_found");
    api.get("/docs/no-such-file.js").await.is_error(404, "not_found");
    let answer = api.send(api.request(Method::PATCH, "/v1/capsules").body(Full::default()).expect("valid")).await;
    answer.is_error(405, "method_not_allowed");
    insta::assert_json_snapshot!("envelope", blurred(answer.json()));
}

#[tokio::test]
async fn bad_bodies_are_enveloped() {
    let world = World::start().await;
    let api = &world.api;
    let post = |kind: &'static str, body: Bytes| async move {
        let request = api.request(Method::POST, "/v1/capsules").header("content-type", kind);
        api.send(request.body(Full::from(body)).expect("valid")).await
    };
    for body in ["", "{", "null", "\"x\"", "{\"vcpus\": \"1\"}", "\u{feff}{}"] {
        post("application/json", Bytes::from(body)).await.is_error(400, "invalid_request");
    }
    post("application/json", Bytes::from_static(&[0xff, 0xfe])).await.is_error(400, "invalid_request");
    let message = post("text/plain", Bytes::from("{}")).await.is_error(415, "unsupported_media_type");
    assert!(message.contains("application/json"), "{message}");
    let huge = Bytes::from(vec![b' '; JSON_BODY_BYTES_MAX + 1]);
    post("application/json", huge).await.is_error(413, "payload_too_large");
    assert_eq!(post("application/json; charset=utf-8", Bytes::from("{}")).await.status, 202);
    assert_eq!(post("application/problem+json", Bytes::from("{}")).await.status, 202);
}

#[tokio::test]
async fn every_route_but_the_public_ones_wants_a_key() {
    let world = World::start().await;
    let id = "cl-0000000000000000000000000";
    let team = "team-0000000000000000000000001";
    let routes = [
        (Method::POST, "/v1/capsules".to_owned()),
        (Method::GET, "/v1/capsules".to_owned()),
        (Method::GET, format!("/v1/capsules/{id}")),
        (Method::DELETE, format!("/v1/capsules/{id}")),
        (Method::GET, format!("/v1/capsules/{id}/metrics")),
        (Method::GET, "/v1/capsules/stats".to_owned()),
        (Method::GET, "/v1/capsules/usage".to_owned()),
        (Method::GET, "/v1/events/stream".to_owned()),
        (Method::POST, format!("/v1/capsules/{id}/ping")),
        (Method::POST, format!("/v1/capsules/{id}/pause")),
        (Method::POST, format!("/v1/capsules/{id}/resume")),
        (Method::POST, format!("/v1/capsules/{id}/fork")),
        (Method::POST, format!("/v1/capsules/{id}/exec")),
        (Method::GET, format!("/v1/capsules/{id}/exec/stream")),
        (Method::GET, format!("/v1/capsules/{id}/console")),
        (Method::GET, format!("/v1/capsules/{id}/pty")),
        (Method::GET, format!("/v1/capsules/{id}/processes")),
        (Method::GET, format!("/v1/capsules/{id}/processes/1/stream")),
        (Method::DELETE, format!("/v1/capsules/{id}/processes/1")),
        (Method::POST, format!("/v1/capsules/{id}/files/write")),
        (Method::POST, format!("/v1/capsules/{id}/files/stream/write")),
        (Method::POST, format!("/v1/capsules/{id}/files/read")),
        (Method::POST, format!("/v1/capsules/{id}/files/stream/read")),
        (Method::POST, format!("/v1/capsules/{id}/files/list")),
        (Method::POST, format!("/v1/capsules/{id}/files/mkdir")),
        (Method::POST, format!("/v1/capsules/{id}/files/remove")),
        (Method::GET, format!("/v1/capsules/{id}/ports/80/tunnel")),
        (Method::GET, "/v1/snapshots".to_owned()),
        (Method::GET, "/v1/whoami".to_owned()),
        (Method::GET, "/v1/me".to_owned()),
        (Method::GET, "/v1/api-keys".to_owned()),
        (Method::POST, "/v1/api-keys".to_owned()),
        (Method::DELETE, "/v1/api-keys/key-0000000000000000000000000".to_owned()),
        (Method::GET, "/v1/channels".to_owned()),
        (Method::POST, "/v1/channels".to_owned()),
        (Method::POST, "/v1/channels/test".to_owned()),
        (Method::GET, "/v1/channels/ch-0000000000000000000000000".to_owned()),
        (Method::PATCH, "/v1/channels/ch-0000000000000000000000000".to_owned()),
        (Method::PUT, "/v1/channels/ch-0000000000000000000000000/config".to_owned()),
        (Method::DELETE, "/v1/channels/ch-0000000000000000000000000".to_owned()),
        (Method::GET, "/v1/users/search".to_owned()),
        (Method::GET, "/v1/teams".to_owned()),
        (Method::POST, "/v1/teams".to_owned()),
        (Method::GET, format!("/v1/teams/{team}")),
        (Method::PATCH, format!("/v1/teams/{team}")),
        (Method::DELETE, format!("/v1/teams/{team}")),
        (Method::GET, format!("/v1/teams/{team}/members")),
        (Method::POST, format!("/v1/teams/{team}/members")),
        (Method::PATCH, format!("/v1/teams/{team}/members/usr-0000000000000000000000000")),
        (Method::DELETE, format!("/v1/teams/{team}/members/usr-0000000000000000000000000")),
        (Method::POST, format!("/v1/teams/{team}/leave")),
        (Method::POST, format!("/v1/teams/{team}/transfer")),
        (Method::GET, "/v1/audit-logs".to_owned()),
        (Method::POST, "/v1/snapshots".to_owned()),
        (Method::DELETE, "/v1/snapshots/mine".to_owned()),
    ];
    // A key never opens these; a session does.
    let by_session = [
        (Method::POST, "/v1/auth/switch-team".to_owned()),
        (Method::POST, "/v1/auth/logout".to_owned()),
        (Method::POST, "/v1/auth/logout-all".to_owned()),
        (Method::POST, "/v1/auth/device/look".to_owned()),
        (Method::POST, "/v1/auth/device/approve".to_owned()),
        (Method::PATCH, "/v1/me".to_owned()),
        (Method::DELETE, "/v1/me".to_owned()),
        (Method::POST, "/v1/me/password".to_owned()),
        (Method::GET, "/v1/me/sessions".to_owned()),
        (Method::DELETE, format!("/v1/me/sessions/{}", "0".repeat(64))),
        (Method::GET, "/v1/me/providers/github/connect".to_owned()),
        (Method::DELETE, "/v1/me/providers/github".to_owned()),
        (Method::GET, "/v1/admin/teams".to_owned()),
        (Method::DELETE, format!("/v1/admin/teams/{team}")),
        (Method::GET, "/v1/admin/limits".to_owned()),
        (Method::PUT, "/v1/admin/limits".to_owned()),
        (Method::GET, format!("/v1/admin/teams/{team}/limits")),
        (Method::PUT, format!("/v1/admin/teams/{team}/limits")),
        (Method::GET, "/v1/admin/users".to_owned()),
        (Method::PUT, "/v1/admin/users/usr-0000000000000000000000000/active".to_owned()),
        (Method::PUT, "/v1/admin/users/usr-0000000000000000000000000/admin".to_owned()),
        (Method::GET, "/v1/admin/capsules".to_owned()),
        (Method::GET, format!("/v1/admin/capsules/{id}")),
        (Method::DELETE, format!("/v1/admin/capsules/{id}")),
        (Method::GET, "/v1/admin/templates".to_owned()),
        (Method::DELETE, "/v1/admin/templates/mine".to_owned()),
        (Method::GET, "/v1/admin/audit-logs".to_owned()),
        (Method::GET, "/v1/admin/events/stream".to_owned()),
        (Method::GET, "/v1/admin/events/dead".to_owned()),
        (Method::POST, "/v1/admin/events/dead/retry".to_owned()),
    ];
    // /health, sign-up, activation, login, two of resets, two of OAuth, two of devices.
    const PUBLIC: usize = 10;
    // The list above is complete.
    let described = wrenn_control::rest::description();
    let guarded: usize = described
        .paths
        .paths
        .values()
        .map(|item| [&item.get, &item.post, &item.delete, &item.put, &item.patch].into_iter().flatten().count())
        .sum();
    assert_eq!(guarded, routes.len() + by_session.len() + PUBLIC, "a route is missing here");
    for (method, path) in by_session {
        for key in [None, Some(world.key.as_str())] {
            let mut request = http::Request::builder().method(method.clone()).uri(world.plane.url(&path));
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let request = request.header("content-type", "application/json").body(Full::from("{}")).expect("valid");
            world.api.send(request).await.is_error(401, "unauthorized");
        }
    }
    for (method, path) in routes {
        for key in [None, Some(""), Some("wrn_short"), Some("wrn_00000000000000000000000000000000"), Some("é")] {
            let mut request = http::Request::builder().method(method.clone()).uri(world.plane.url(&path));
            if let Some(key) = key {
                request = request.header("x-api-key", key.as_bytes());
            }
            let request = request.header("content-type", "application/json").body(Full::from("{}")).expect("valid");
            world.api.send(request).await.is_error(401, "unauthorized");
        }
    }
    for path in ["/health", "/openapi.yaml", "/docs/"] {
        let request = http::Request::builder().uri(world.plane.url(path)).body(Full::default()).expect("valid");
        assert_eq!(world.api.send(request).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_its_own_request_id() {
    let world = World::start().await;
    let ids: std::collections::BTreeSet<String> =
        futures::future::join_all((0..10).map(|_| world.api.get("/v1/capsules")))
            .await
            .iter()
            .map(|a| a.headers["x-request-id"].to_str().expect("text").to_owned())
            .collect();
    assert_eq!(ids.len(), 10);
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    let mut socket = tokio::net::TcpStream::connect(world.plane.addr()).await.expect("connects");
    socket.write_all(b"GET /health HTTP/1.1\r\nHost:").await.expect("sends");
    let mut rest = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), socket.read_to_end(&mut rest));
    let _ = read.await.expect("the server closed");
}

#[tokio::test]
async fn nonsense_in_ids_never_reaches_an_error_text_of_ours() {
    let world = World::start().await;
    for path in ["/v1/capsules/%00", "/v1/capsules/%ff%fe", "/v1/capsules/'%20OR%201=1--"] {
        world.api.get(path).await.is_error(400, "invalid_request");
    }
    let body = world.api.post("/v1/capsules", json!({"template": "x'; DROP TABLE sandboxes; --"})).await;
    body.is_error(400, "invalid_request");
}
