//! What attackers try against accounts.
use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use wrenn_testkit::wait_until;

use crate::harness::SOON;
use crate::people::{Browser, House, PASSWORD};

fn rename(browser: &Browser, csrf: Option<&str>, cookies: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(Method::PATCH)
        .uri(browser.request(Method::GET, "/v1/me").body(()).expect("valid").uri().clone())
        .header("content-type", "application/json")
        .header("cookie", cookies);
    if let Some(csrf) = csrf {
        request = request.header("x-csrf-token", csrf);
    }
    request.body(Full::from(json!({"name": "Hacked"}).to_string())).expect("valid")
}

#[tokio::test]
async fn a_write_needs_the_csrf_token_of_its_very_session() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let mut other = house.log_in("ann@example.com").await;
    let eve = house.person("eve@example.com").await;
    let sid = ann.cookies["wrenn_sid"].clone();
    let own = ann.cookies["wrenn_csrf"].clone();
    let cookies = |csrf: &str| format!("wrenn_sid={sid}; wrenn_csrf={csrf}");
    for (csrf, cookies) in [
        (None, cookies(&own)),
        (Some(""), cookies("")),
        (Some("x"), cookies("x")),
        (Some(&other.cookies["wrenn_csrf"] as &str), cookies(&other.cookies["wrenn_csrf"])),
        (Some(&eve.cookies["wrenn_csrf"] as &str), cookies(&eve.cookies["wrenn_csrf"])),
        (Some(&sid as &str), cookies(&own)),
    ] {
        let request = rename(&ann, csrf, &cookies);
        ann.clone().send(request).await.is_error(403, "forbidden");
    }
    assert_ne!(ann.get("/v1/me").await.json()["name"], "Hacked");
    // The right token is enough, whatever the cookie says: it is never compared with the cookie.
    let request = rename(&ann, Some(&own), &cookies("tossed"));
    assert_eq!(ann.send(request).await.status, 204);
    assert_eq!(other.patch("/v1/me", json!({"name": "Ann"})).await.status, 204);
}

#[tokio::test]
async fn a_cookie_tossed_from_a_sibling_subdomain_logs_nobody_into_another_account() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    let eve = house.person("eve@example.com").await;
    let (anns, eves) = (&ann.cookies["wrenn_sid"], &eve.cookies["wrenn_sid"]);
    for cookies in [format!("wrenn_sid={eves}; wrenn_sid={anns}"), format!("wrenn_sid={anns}; wrenn_sid={eves}")] {
        for method in [Method::GET, Method::POST] {
            let request = Request::builder()
                .method(method)
                .uri(house.plane.url("/v1/teams"))
                .header("content-type", "application/json")
                .header("x-csrf-token", &ann.cookies["wrenn_csrf"])
                .header("cookie", &cookies)
                .body(Full::from(json!({"name": "x"}).to_string()))
                .expect("valid");
            ann.clone().send(request).await.is_error(401, "unauthorized");
        }
    }
}

#[tokio::test]
async fn a_session_fixed_before_the_login_is_worth_nothing_after_it() {
    let house = House::start().await;
    house.person("ann@example.com").await;
    let eve = house.person("eve@example.com").await;
    // The victim's browser holds eve's session, or one made up, when it logs in.
    for fixed in [eve.cookies["wrenn_sid"].clone(), "0".repeat(64)] {
        let mut victim = house.browser();
        victim.cookies.insert("wrenn_sid".to_owned(), fixed.clone());
        let answer = victim.post("/v1/auth/login", json!({"email": "ann@example.com", "password": PASSWORD})).await;
        assert_eq!(answer.status, 200);
        assert_ne!(victim.cookies["wrenn_sid"], fixed);
        let mut attacker = house.browser();
        attacker.cookies.insert("wrenn_sid".to_owned(), fixed);
        attacker.get("/v1/me").await.is_error(401, "unauthorized");
        assert_eq!(victim.get("/v1/me").await.json()["email"], "ann@example.com");
    }
}

#[tokio::test]
async fn an_activation_link_replayed_by_many_makes_one_session() {
    let house = House::start().await;
    let token = house.pending("ann@example.com").await;
    let tries = join_all((0..6).map(|_| {
        let (mut browser, token) = (house.browser(), token.clone());
        async move { browser.post("/v1/auth/activate", json!({"token": token})).await.status.as_u16() }
    }))
    .await;
    assert_eq!(tries.iter().filter(|status| **status == 200).count(), 1, "{tries:?}");
    assert!(tries.iter().all(|status| matches!(status, 200 | 400)), "{tries:?}");
}

#[tokio::test]
async fn a_revoked_session_is_dead_on_every_control_plane_by_news_or_by_age() {
    let house = House::start().await;
    let second = house.second_plane().await;
    for with_redis in [true, false] {
        let mut ann =
            if with_redis { house.person("ann@example.com").await } else { house.log_in("ann@example.com").await };
        let (here, there) = (ann.clone(), ann.moved_to(&second));
        wait_until("known on both", SOON, || async {
            (there.get("/v1/me").await.status == 200 && here.get("/v1/me").await.status == 200).then_some(())
        })
        .await;
        if with_redis {
            assert_eq!(ann.post("/v1/auth/logout", json!({})).await.status, 204);
        } else {
            // Nobody is told and Redis is empty: only age helps.
            house.empty_redis().await;
            house.sql("DELETE FROM sessions").await;
        }
        for browser in [here, there] {
            wait_until("dead", SOON, || async { (browser.get("/v1/me").await.status == 401).then_some(()) }).await;
        }
    }
}

#[tokio::test]
async fn redis_emptied_or_gone_logs_nobody_out() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    house.empty_redis().await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    let deaf = House::with(&[("REDIS_URL", "redis://127.0.0.1:1/")], |builder| builder).await;
    let mut bob = deaf.person("bob@example.com").await;
    assert_eq!(bob.get("/v1/me").await.status, 200);
    let (_, key) = bob.new_key().await;
    assert_eq!(bob.api(&key).get("/v1/capsules").await.status, 200);
    let old = bob.clone();
    assert_eq!(bob.post("/v1/auth/logout", json!({})).await.status, 204);
    wait_until("dead without Redis", SOON, || async { (old.get("/v1/me").await.status == 401).then_some(()) }).await;
}

#[tokio::test]
async fn passwords_cannot_be_tried_out() {
    let house = House::start().await;
    house.person("ann@example.com").await;
    let body = |n: usize| json!({"email": "ann@example.com", "password": format!("wrong {n} wrong")});
    // From one network at one account, all at once.
    let eve = house.browser();
    let tries = join_all((0..16).map(|n| {
        let mut browser = eve.clone();
        async move { browser.post("/v1/auth/login", body(n)).await }
    }))
    .await;
    let refused = tries.iter().filter(|a| a.status == 429).count();
    assert_eq!((tries.iter().filter(|a| a.status == 401).count(), refused), (10, 6));
    let answer = tries.iter().find(|a| a.status == 429).expect("one");
    answer.is_error(429, "rate_limited");
    let wait: u64 = answer.headers["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!((1..=30).contains(&wait), "{wait}");
    // From one address at many accounts.
    let mut browser = house.browser();
    let mut passed = 0;
    for n in 0..40 {
        let body = json!({"email": format!("p{n}@example.com"), "password": "wrong wrong"});
        if browser.post("/v1/auth/login", body).await.status == 429 {
            break;
        }
        passed += 1;
    }
    assert!((30..=38).contains(&passed), "{passed}");
}

#[tokio::test]
async fn a_claimed_address_is_believed_of_trusted_proxies_only() {
    let house = House::with(&[("WRENN_TRUSTED_PROXIES", "10.0.0.0/8")], |builder| builder).await;
    let mut limited = 0;
    for n in 0..12 {
        // A new claimed address each time.
        let mut browser = house.browser();
        let body = json!({"email": format!("p{n}@example.com"), "password": PASSWORD, "name": "X"});
        limited += usize::from(browser.post("/v1/auth/signup", body).await.status == 429);
    }
    assert_eq!(limited, 2, "all twelve came from one address");
}

#[tokio::test]
async fn every_credential_route_is_limited_and_says_when_to_come_back() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let zeros = "0".repeat(64);
    for (path, body, most) in [
        ("/v1/auth/signup", json!({"email": "x@example.com", "password": PASSWORD, "name": "X"}), 10),
        ("/v1/auth/activate", json!({"token": zeros}), 31),
        ("/v1/me/password/reset", json!({"email": "x@example.com"}), 10),
        ("/v1/me/password/reset/confirm", json!({"token": zeros, "new_password": PASSWORD}), 31),
        ("/v1/auth/device", json!({}), 21),
        ("/v1/auth/device/token", json!({"device_code": zeros}), 62),
        ("/v1/me/password", json!({"current_password": "wrong wrong", "new_password": PASSWORD}), 11),
        ("/v1/auth/device/approve", json!({"user_code": "BCDF-GHJK"}), 11),
    ] {
        let mut browser =
            if path.ends_with("/password") || path.ends_with("approve") { ann.clone() } else { house.browser() };
        let tries = join_all((0..most + 8).map(|_| {
            let (mut browser, body) = (browser.clone(), body.clone());
            async move { browser.post(path, body).await }
        }))
        .await;
        let limited: Vec<_> = tries.iter().filter(|a| a.status == 429).collect();
        assert!(!limited.is_empty(), "{path} is not limited");
        for answer in limited {
            answer.is_error(429, "rate_limited");
            assert!(answer.headers.contains_key("retry-after"), "{path}");
        }
        browser.post(path, body).await;
    }
    let confirm = json!({"confirmation": "wrong@example.com"});
    let mut last = 0;
    for _ in 0..12 {
        last = ann.call(Method::DELETE, "/v1/me", confirm.clone()).await.status.as_u16();
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn hostile_text_in_every_field_is_an_answer_and_never_a_fault() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let hostile = [
        "'; DROP TABLE users; --",
        "\" OR \"1\"=\"1",
        "a@example.com\r\nSet-Cookie: x=y",
        "\u{0}",
        "../../etc/passwd",
        "{{7*7}}",
        "<svg onload=alert(1)>",
        "%s%n%x",
        "\u{202e}gnp.exe",
        "😀",
    ];
    let team = ann.team();
    let long = "x".repeat(100_000);
    for text in hostile.iter().copied().chain([long.as_str()]) {
        for (method, path, body) in [
            (Method::POST, "/v1/auth/signup", json!({"email": text, "password": text, "name": text})),
            (Method::POST, "/v1/auth/login", json!({"email": text, "password": text})),
            (Method::POST, "/v1/auth/activate", json!({"token": text})),
            (Method::POST, "/v1/me/password/reset", json!({"email": text})),
            (Method::POST, "/v1/me/password/reset/confirm", json!({"token": text, "new_password": text})),
            (Method::PATCH, "/v1/me", json!({"name": text})),
            (Method::POST, "/v1/auth/switch-team", json!({"team_id": text})),
            (Method::POST, "/v1/api-keys", json!({"name": text, "team_id": text})),
            (Method::POST, "/v1/teams", json!({"name": text})),
            (Method::POST, "/v1/auth/device", json!({"client": text})),
            (Method::POST, "/v1/auth/device/token", json!({"device_code": text})),
            (Method::POST, "/v1/auth/device/look", json!({"user_code": text})),
            (Method::POST, "/v1/admin/events/dead/retry", json!({"event_id": text, "group": text})),
        ] {
            let mut browser = ann.clone();
            browser.address = house.browser().address;
            let answer = browser.call(method.clone(), path, body).await;
            assert!(answer.status.as_u16() < 500, "{method} {path} {text:?}: {:?}", answer.body);
            assert!(!answer.headers.get_all("set-cookie").iter().any(|c| c.as_bytes().starts_with(b"x=")));
        }
        let escaped: String = text.bytes().take(500).map(|b| format!("%{b:02x}")).collect();
        for path in [
            format!("/v1/audit-logs?cursor={escaped}"),
            format!("/v1/audit-logs?action={escaped}"),
            format!("/v1/users/search?email={escaped}@"),
            format!("/v1/teams/{escaped}"),
            format!("/v1/teams/{team}/members/{escaped}"),
            format!("/auth/oauth/{escaped}"),
            format!("/auth/oauth/github/callback?code={escaped}&state={escaped}"),
        ] {
            let answer = ann.get(&path).await;
            assert!(answer.status.as_u16() < 500, "{path}: {:?}", answer.body);
        }
    }
    assert_eq!(ann.get("/v1/me").await.status, 200, "the table still stands");
    for bad in [json!({"email": ["a"]}), json!({"email": {"$ne": ""}}), Value::Array(Vec::new())] {
        ann.post("/v1/auth/login", bad).await.is_error(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_websocket_with_the_victims_cookie() {
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let capsule = ann.api(&key).create_running().await;
    let path = format!("/v1/capsules/{capsule}/exec/stream");
    let open = |origin: Option<String>| {
        let mut request = ann
            .request(Method::GET, &path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let mut browser = ann.clone();
        async move { browser.send(request.body(Full::default()).expect("valid")).await }
    };
    let host = house.plane.addr();
    for bad in
        [None, Some("https://evil.example".to_owned()), Some("null".to_owned()), Some(format!("http://{host}.evil"))]
    {
        open(bad).await.is_error(403, "forbidden");
    }
    assert_eq!(
        tokio::time::timeout(SOON, upgrade_status(&ann, &path, &format!("http://{host}"))).await.expect("in time"),
        101
    );
}

/// The status of an upgrade, without reading on.
async fn upgrade_status(browser: &Browser, path: &str, origin: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request = browser.request(Method::GET, path).body(()).expect("valid");
    let authority = request.uri().authority().expect("one").to_string();
    let mut socket = tokio::net::TcpStream::connect(&authority).await.expect("connects");
    let cookie = request.headers()["cookie"].to_str().expect("text");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut start = [0; 12];
    socket.read_exact(&mut start).await.expect("read");
    String::from_utf8_lossy(&start[9..12]).parse().expect("a status")
}

#[tokio::test]
async fn a_stream_ends_with_the_session_it_was_opened_by() {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let house = House::start().await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let capsule = ann.api(&key).create_running().await;
    let url = house.plane.url(&format!("/v1/capsules/{capsule}/exec/stream")).replace("http://", "ws://");
    let mut request = url.into_client_request().expect("valid");
    let sid = format!("wrenn_sid={}", ann.cookies["wrenn_sid"]);
    request.headers_mut().insert("cookie", sid.parse().expect("a value"));
    request.headers_mut().insert("origin", house.plane.url("").parse().expect("a value"));
    let socket = tokio::net::TcpStream::connect(house.plane.addr()).await.expect("connects");
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.expect("upgraded");
    socket.send(Message::Ping(Bytes::new())).await.expect("sent");
    assert_eq!(ann.post("/v1/auth/logout", json!({})).await.status, 204);
    let closed = async {
        while let Some(message) = socket.next().await {
            if let Ok(Message::Close(Some(frame))) = message {
                return u16::from(frame.code);
            }
        }
        0
    };
    assert_eq!(tokio::time::timeout(SOON, closed).await.expect("in time"), 1008);
}

#[tokio::test]
async fn a_password_counts_to_its_last_byte_however_its_letters_are_typed() {
    let house = House::start().await;
    house.person("ann@example.com").await;
    let long = "x".repeat(200);
    let near = format!("{}y", &long[..199]);
    let mut current = PASSWORD.to_owned();
    for (new, right, wrong) in [
        (long.as_str(), vec![long.as_str()], vec![&long[..72], &long[..199], near.as_str(), PASSWORD]),
        // One letter as one character, or as a letter and its dots.
        (
            "pässwörd 😀",
            vec!["pässwörd 😀", "pa\u{308}sswo\u{308}rd 😀"],
            vec!["password 😀", "pässwörd ", "pässwörd 😁"],
        ),
    ] {
        let mut ann = house.browser();
        let login = |password: &str| json!({"email": "ann@example.com", "password": password});
        assert_eq!(ann.post("/v1/auth/login", login(&current)).await.status, 200);
        let change = json!({"current_password": current, "new_password": new});
        assert_eq!(ann.post("/v1/me/password", change).await.status, 204);
        for wrong in wrong {
            house.browser().post("/v1/auth/login", login(wrong)).await.is_error(401, "unauthorized");
        }
        for right in right {
            assert_eq!(house.browser().post("/v1/auth/login", login(right)).await.status, 200, "{right}");
        }
        current = new.to_owned();
    }
}
