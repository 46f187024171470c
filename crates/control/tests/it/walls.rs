//! Attacks on what all share: a client that takes everything and answers nothing leaves the others as they were.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wrenn_control::context::Tuning;
use wrenn_control::fault::Faults;
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Plane, SOON, World, host_is_known, new_key, quick, settings};
use crate::people::{House, PASSWORD};
use wrenn_contract::proto::wrenn::host::v1::SandboxPhase;
use wrenn_domain::ids::HostId;

/// A control plane with few connections, and little patience with clients that take nothing.
async fn small(connections: &str, answer_progress: Duration) -> World {
    let (database, host) = (Database::fresh().await, SimHost::start(Guest::None).await);
    let mut values = settings(&database.url, &database, &host);
    values.insert("WRENN_CP_CONNECTIONS".to_owned(), connections.to_owned());
    // Every client is its own network: nobody is trusted to speak for others.
    values.insert("WRENN_TRUSTED_PROXIES".to_owned(), "192.0.2.1".to_owned());
    let config = wrenn_control::Config::parse(&values).expect("valid settings");
    let plane = Plane::launch(config, |builder| builder.tuning(Tuning { answer_progress, ..quick() })).await;
    let key = new_key(&database, "team").await;
    let api = plane.api(&key);
    host_is_known(&database).await;
    World { database, host, plane, api, key }
}

/// Waits until the other side ends a connection, reading what it sends.
async fn ended(mut tcp: TcpStream) {
    let mut buffer = [0; 4096];
    let read = async { while tcp.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(SOON, read).await.expect("the server ends it");
}

#[tokio::test]
async fn silent_connections_make_room_and_those_at_work_stay() {
    let world = small("32", Duration::from_secs(30)).await;
    // A request under way: its body does not come, and it is heard.
    let mut slow = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let head = format!(
        "POST /v1/capsules HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
         Expect: 100-continue\r\n\r\n",
        world.key
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    let mut goes_on = [0; 25];
    tokio::time::timeout(SOON, slow.read_exact(&mut goes_on)).await.expect("in time").expect("its body is awaited");
    assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(world.plane.addr()).await.expect("connects"));
    }
    for _ in 0..5 {
        assert_eq!(world.plane.api(&world.key).get("/health").await.status, 200, "a newcomer is heard");
    }
    slow.write_all(b"{}").await.expect("sent");
    let mut answer = [0; 12];
    tokio::time::timeout(SOON, slow.read_exact(&mut answer)).await.expect("in time").expect("it was not cut");
    assert_eq!(&answer, b"HTTP/1.1 202");
    ended(silent.swap_remove(0)).await;
}

/// The head of an HTTP/2 GET for which the client takes no byte: its windows are shut.
fn h2_get(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x01, 1, b'a', 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    let mut frame = vec![0, 0, block.len() as u8, 1, 0x05];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&block);
    frame
}

#[tokio::test]
async fn a_client_with_shut_windows_is_given_up_and_others_are_not() {
    let world = small("64", Duration::from_millis(400)).await;
    let mut tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS with INITIAL_WINDOW_SIZE 0.
    hello.extend_from_slice(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    for n in 0..50 {
        hello.extend(h2_get(1 + 2 * n, "/docs/swagger-ui-bundle.js"));
    }
    let begun = Instant::now();
    tcp.write_all(&hello).await.expect("sent");
    ended(tcp).await;
    assert!(begun.elapsed() >= Duration::from_millis(400), "it had its time");
    let bundle = world.api.get("/docs/swagger-ui-bundle.js").await;
    assert!(bundle.status == 200 && bundle.body.len() > 1_000_000, "{}", bundle.body.len());
}

#[tokio::test]
async fn a_client_that_reads_nothing_over_http_1_is_given_up() {
    let world = small("64", Duration::from_millis(400)).await;
    let mut tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
    // More than the kernel's buffers on both sides hold.
    let get = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64);
    tcp.write_all(get.as_bytes()).await.expect("sent");
    wait_until("the server resets it", SOON, || async {
        let mut byte = [0];
        // Only looked at: reading would make room.
        let broken = tcp.peek(&mut byte).await.is_err() || tcp.take_error().ok().flatten().is_some();
        broken.then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_that_wait_for_one_capsule_leave_room_for_those_of_another() {
    use wrenn_domain::limits::{HELD_REQUESTS_MAX, HELD_REQUESTS_PER_SANDBOX_MAX};
    const { assert!(HELD_REQUESTS_PER_SANDBOX_MAX * 4 <= HELD_REQUESTS_MAX) };
    let world = World::with(Guest::None, Faults::default()).await;
    world.host.behave(|behaviour| behaviour.hold_starts = true);
    let made = world.api.post("/v1/capsules", json!({"auto_resume": true, "public_ports": true})).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    let ask = || {
        let (addr, id) = (world.plane.addr(), id.clone());
        async move {
            let mut tcp = TcpStream::connect(addr).await.expect("connects");
            let head = format!("GET / HTTP/1.1\r\nHost: 80-{id}.localhost\r\nConnection: close\r\n\r\n");
            tcp.write_all(head.as_bytes()).await.expect("sent");
            tcp
        }
    };
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..HELD_REQUESTS_PER_SANDBOX_MAX + 20 {
        let ask = ask();
        asked.spawn(async move {
            let mut answer = Vec::new();
            ask.await.read_to_end(&mut answer).await.expect("read");
            String::from_utf8_lossy(&answer).into_owned()
        });
    }
    // Those that are held hear nothing yet; those above the share hear why at once.
    for _ in 0..20 {
        let answer = tokio::time::timeout(SOON, asked.join_next()).await.expect("in time").expect("one");
        let answer = answer.expect("no panic");
        assert!(answer.contains("too many requests wait for capsule"), "{answer}");
    }
    assert_eq!(asked.len(), HELD_REQUESTS_PER_SANDBOX_MAX, "the others wait");
}

#[tokio::test]
async fn who_writes_to_redis_is_nobody() {
    let house = House::start().await;
    let ann = house.person("ann@example.com").await;
    assert_eq!(ann.get("/v1/me").await.status, 200);
    let hash = ann.cookies["wrenn_sid"].parse::<wrenn_domain::secret::Secret>().expect("one").hash().to_string();
    let key = format!("session:{hash}");
    let entry = wait_until("the session is shared", SOON, || async { house.get_redis(&key).await }).await;
    assert!(entry.contains("ann@example.com"), "{entry}");
    let (generation, user) = (entry.split(' ').next().expect("one"), ann.user());
    let user = entry.split(' ').nth(1).unwrap_or(&user).to_owned();
    let generation_key = format!("session-generation:{user}");
    // A session that never was: with a made-up entry, with Ann's own copied to it, and with Ann's changed.
    let made_up = json!({"user": user, "email": "eve@example.com", "name": "Eve", "is_admin": true, "team": null,
        "generation": 0, "expires_at": "2099-01-01T00:00:00Z", "shared_at": chrono::Utc::now()});
    for (n, body) in [
        format!("{generation} {user} {made_up}"),
        format!("{generation} {user} {} {made_up}", "0".repeat(64)),
        entry.clone(),
        entry.replace("ann@", "eve@"),
    ]
    .into_iter()
    .enumerate()
    {
        let secret = wrenn_domain::secret::Secret::from_random([n as u8 + 1; 32]);
        house.put_redis(&generation_key, generation).await;
        house.put_redis(&format!("session:{}", secret.hash()), &body).await;
        let mut eve = house.browser();
        eve.cookies.insert("wrenn_sid".to_owned(), secret.reveal());
        assert_eq!(eve.get("/v1/me").await.status, 401, "{body}");
    }
    assert_eq!(ann.get("/v1/me").await.status, 200);
}

#[tokio::test]
async fn a_host_speaks_for_no_capsule_of_another() {
    let world = World::start().await;
    let id = world.api.create_running().await;
    let store = world.database.store();
    let other = HostId::from_uuid(uuid::Uuid::new_v4());
    store.host_ensure("http://127.0.0.1:1", other).await.expect("a host");
    // From now on it is the other host's, and the first one goes on speaking of it.
    let moved = sqlx::query("UPDATE sandboxes SET host_id = $1 WHERE state = 'running'").bind(other.uuid());
    assert_eq!(moved.execute(store.pool()).await.expect("moved").rows_affected(), 1);
    world.host.say(&id, |report| {
        report.phase = SandboxPhase::Gone.into();
        report.generation = i64::MAX as u64;
    });
    // What is said later is heard, so what was said before was judged.
    let mine = world.api.create_running().await;
    assert_eq!(world.api.status(&id).await, "running");
    // For its own it speaks.
    world.host.say(&mine, |report| {
        report.phase = SandboxPhase::Gone.into();
        report.generation = i64::MAX as u64;
    });
    world.api.wait_status(&mine, "stopped").await;
    assert_eq!(world.api.status(&id).await, "running");
    assert_eq!(world.host.calls("DeleteSandbox", &id), 0, "nobody has it deleted");
}

#[tokio::test]
async fn nobody_is_kept_from_logging_in_by_the_tries_of_others() {
    let house = House::start().await;
    house.person("ann@example.com").await;
    let mut eve = house.browser();
    let wrong = json!({"email": "ann@example.com", "password": "wrong wrong"});
    let mut last = 0;
    for _ in 0..12 {
        last = eve.post("/v1/auth/login", wrong.clone()).await.status.as_u16();
    }
    assert_eq!(last, 429, "her own network is limited");
    house.log_in("ann@example.com").await;
}

#[tokio::test]
async fn who_signs_up_with_anothers_address_gets_no_password_into_the_account() {
    let house = House::start().await;
    let body = json!({"email": "ann@example.com", "password": "the attackers own", "name": "Eve"});
    assert_eq!(house.browser().post("/v1/auth/signup", body).await.status, 201);
    let token = house.token("activation", "ann@example.com").await;
    let mut ann = house.browser();
    let activate = json!({"token": token, "password": PASSWORD});
    assert_eq!(ann.post("/v1/auth/activate", activate).await.status, 200);
    let theirs = json!({"email": "ann@example.com", "password": "the attackers own"});
    house.browser().post("/v1/auth/login", theirs).await.is_error(401, "unauthorized");
    house.log_in("ann@example.com").await;
}

#[tokio::test]
async fn strangers_make_no_account_where_sign_up_is_closed() {
    let house = House::with(&[("WRENN_SIGNUP", "closed")], |builder| builder).await;
    let body = json!({"email": "eve@example.com", "password": PASSWORD, "name": "Eve"});
    house.browser().post("/v1/auth/signup", body).await.is_error(403, "forbidden");
    assert_eq!(house.count("SELECT count(*) FROM users").await, 0);
    assert_eq!(house.count("SELECT count(*) FROM outbound_jobs").await, 0);
}

#[tokio::test]
async fn a_page_of_another_site_logs_nobody_in() {
    let house = House::start().await;
    house.person("ann@example.com").await;
    for (site, origin, status) in [
        ("cross-site", "https://evil.example", 403),
        ("same-site", "http://80-cl-x.localhost:8000", 403),
        ("same-site", "http://localhost:8000", 200),
        ("same-origin", "http://127.0.0.1", 200),
        ("none", "null", 200),
    ] {
        let mut browser = house.browser();
        let request = browser.request(http::Method::POST, "/v1/auth/login");
        let request = request.header("sec-fetch-site", site).header("origin", origin);
        let body = json!({"email": "ann@example.com", "password": PASSWORD}).to_string();
        let request = request.header("content-type", "application/json").body(body.into()).expect("valid");
        assert_eq!(browser.send(request).await.status.as_u16(), status, "{site}");
    }
}

#[tokio::test]
async fn answers_say_that_browsers_must_not_guess_and_over_tls_must_come_back_so() {
    let world = World::start().await;
    for (proto, strict) in [("http", false), ("https", true)] {
        let request = world.api.request(http::Method::GET, "/docs/").header("x-forwarded-proto", proto);
        let answer = world.api.send(request.body(bytes::Bytes::new().into()).expect("valid")).await;
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers.contains_key("strict-transport-security"), strict, "{proto}");
    }
}

#[tokio::test]
async fn a_team_uses_no_more_than_admins_let_it() {
    let house = House::start().await;
    let mut admin = house.person("admin@example.com").await;
    let mut ann = house.person("ann@example.com").await;
    let (_, key) = ann.new_key().await;
    let api = ann.api(&key);
    let of_ann = format!("/v1/admin/teams/{}/limits", ann.team());
    let built_in = admin.get("/v1/admin/limits").await.json();
    assert_eq!(admin.get(&of_ann).await.json(), built_in, "nobody set any");
    assert!(built_in["capsules_max"].as_u64().is_some_and(|max| max > 0), "{built_in}");
    let default = json!({"capsules_max": 1});
    assert_eq!(admin.call(http::Method::PUT, "/v1/admin/limits", default).await.status, 204);
    let first = api.create_running().await;
    api.post("/v1/capsules", json!({})).await.is_error(402, "concurrent_sandbox_limit");
    // Her own outrank the default: paused capsules count as kept.
    let own = json!({"kept_max": 2, "vcpus_max": 8, "memory_mb_max": 4096});
    assert_eq!(admin.call(http::Method::PUT, &of_ann, own).await.status, 204);
    assert_eq!(api.act(&first, "pause").await.status, 202);
    api.wait_status(&first, "paused").await;
    api.create_running().await;
    let text = api.post("/v1/capsules", json!({})).await.is_error(402, "concurrent_sandbox_limit");
    assert!(text.contains("paused ones included"), "{text}");
    admin
        .call(http::Method::PUT, "/v1/admin/teams/team-1111111111111111111111111/limits", json!({}))
        .await
        .is_error(404, "not_found");
}

#[tokio::test]
async fn outputs_that_nobody_reads_are_bounded_for_one_credential_and_given_back() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.api.create_running().await;
    let body = json!({"cmd": "head -c 15000000 /dev/zero | tr '\\0' '\\1'"}).to_string();
    let path = format!("/v1/capsules/{id}/exec");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        world.key,
        body.len()
    );
    // Together more than one credential's share of what answers may hold.
    let mut unread = Vec::new();
    for _ in 0..12 {
        let mut tcp = TcpStream::connect(world.plane.addr()).await.expect("connects");
        tcp.write_all(head.as_bytes()).await.expect("sent");
        unread.push(tcp);
    }
    let (mut taken, mut refused) = (0, 0);
    for tcp in &mut unread {
        let mut status = [0; 12];
        tokio::time::timeout(SOON, tcp.read_exact(&mut status)).await.expect("in time").expect("an answer");
        match &status[9..] {
            b"200" => taken += 1,
            b"429" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!(taken >= 4 && refused >= 1, "{taken} taken, {refused} refused");
    drop(unread);
    wait_until("what was held is given back", SOON, || async {
        let answer = world.api.post(&path, json!({"cmd": "head -c 15000000 /dev/zero | tr '\\0' x"})).await;
        (answer.status == 200 && answer.json()["stdout"].as_str().map(str::len) == Some(15_000_000)).then_some(())
    })
    .await;
}
