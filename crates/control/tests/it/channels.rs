//! Notification channels, with a receiver that listens on a real socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wrenn_control::fault::FaultPoint;
use wrenn_domain::limits::{CHANNEL_REFUSALS_MAX, CHANNEL_TRIES_MAX, CHANNEL_WAITING_MAX, CHANNELS_PER_TEAM_MAX};
use wrenn_testkit::wait_until;

use crate::harness::{SOON, traps};
use crate::people::{Browser, House};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const PRIVATE: (&str, &str) = ("WRENN_CHANNELS_ALLOW_PRIVATE", "true");
const SETTINGS: [(&str, &str); 2] = [("WRENN_ENCRYPTION_KEY", KEY), PRIVATE];

/// What a receiver heard.
#[derive(Debug, Clone)]
struct Heard {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("ASCII")
    }

    /// Event, and what it is about.
    fn of(&self) -> (String, String) {
        let event = self.json();
        (event["event"].as_str().expect("text").to_owned(), event["resource"]["id"].as_str().expect("text").to_owned())
    }
}

/// A server of somebody's: answers what it is told to, the last thing again and again.
#[derive(Clone)]
struct Receiver {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Arc<Mutex<Vec<(u16, &'static str)>>>,
}

impl Receiver {
    async fn start(answers: &[(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let receiver = Self { addr, heard: Arc::default(), answers: Arc::new(Mutex::new(answers.to_vec())) };
        let served = receiver.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let receiver = served.clone();
                let service = service_fn(move |request| receiver.clone().answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        receiver
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body = String::from_utf8(body.to_vec()).expect("text");
        let path = parts.uri.path_and_query().expect("a path").to_string();
        self.heard.lock().expect("whole").push(Heard { method: parts.method, path, headers: parts.headers, body });
        let (status, retry_after) = {
            let mut answers = self.answers.lock().expect("whole");
            if answers.len() > 1 { answers.remove(0) } else { answers[0] }
        };
        let response = Response::builder().status(status).header("location", "http://127.0.0.1:1/elsewhere");
        let response = if retry_after.is_empty() { response } else { response.header("retry-after", retry_after) };
        Ok(response.body(Full::default()).expect("valid"))
    }

    fn now_answers(&self, status: u16) {
        *self.answers.lock().expect("whole") = vec![(status, "")];
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("whole").clone()
    }

    async fn wait_for(&self, count: usize) -> Vec<Heard> {
        wait_until(&format!("{count} calls"), SOON, || async {
            Some(self.heard()).filter(|heard| heard.len() >= count)
        })
        .await
    }
}

async fn house() -> House {
    House::with(&SETTINGS, |builder| builder).await
}

/// A webhook for everything about capsules.
async fn webhook(browser: &mut Browser, name: &str, url: &str) -> Value {
    let body = json!({"name": name, "provider": "webhook", "config": {"url": url}, "events": EVENTS});
    let answer = browser.post("/v1/channels", body).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    answer.json()
}

const EVENTS: [&str; 4] = ["capsule.create", "capsule.pause", "capsule.resume", "capsule.destroy"];

async fn channel(browser: &Browser, channel: &Value) -> Value {
    let answer = browser.get(&format!("/v1/channels/{}", channel["id"].as_str().expect("an id"))).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json()
}

async fn capsule(browser: &mut Browser) -> String {
    let made = browser.post("/v1/capsules", json!({})).await;
    assert_eq!(made.status, 202, "{:?}", made.body);
    made.json()["id"].as_str().expect("an id").to_owned()
}

async fn is_now(browser: &Browser, id: &str, status: &str) {
    wait_until(&format!("{id} is {status}"), SOON, || async {
        (browser.get(&format!("/v1/capsules/{id}")).await.json()["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_life_is_told_in_order_signed_and_to_its_team_alone() {
    let house = house().await;
    let (mut ann, mut eve) = (house.person("ann@example.com").await, house.person("eve@example.com").await);
    let (anns, eves) = (Receiver::start(&[(200, "")]).await, Receiver::start(&[(204, "")]).await);
    let made = webhook(&mut ann, "On Call", &anns.url("/hook?x=1")).await;
    webhook(&mut eve, "on-call", &eves.url("/")).await;
    assert_eq!((made["name"].as_str(), made["provider"].as_str()), (Some("on-call"), Some("webhook")));
    let secret = made["secret"].as_str().expect("shown once");
    assert_eq!(secret.len(), 64);

    let id = capsule(&mut ann).await;
    is_now(&ann, &id, "running").await;
    ann.post(&format!("/v1/capsules/{id}/pause"), json!({})).await;
    is_now(&ann, &id, "paused").await;
    ann.post(&format!("/v1/capsules/{id}/resume"), json!({})).await;
    is_now(&ann, &id, "running").await;
    ann.delete(&format!("/v1/capsules/{id}")).await;
    let heard = anns.wait_for(4).await;
    let told: Vec<_> = heard.iter().map(Heard::of).collect();
    assert_eq!(told, EVENTS.map(|event| (event.to_owned(), id.clone())));
    for call in &heard {
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/hook?x=1"));
        assert_eq!(call.header("content-type"), "application/json");
        assert_eq!(call.header("x-wrenn-event"), call.json()["id"].as_str().expect("an id"));
        assert_eq!(call.json()["actor"]["name"], "ann@example.com");
        assert_eq!(call.json()["team_id"], ann.team());
        let signed = format!("{}.{}", call.header("x-wrenn-timestamp"), call.body);
        assert_eq!(call.header("x-wrenn-signature"), format!("sha256={}", hmac(secret, &signed)));
    }
    let shown = wait_until("nothing waits", SOON, || async {
        Some(channel(&ann, &made).await).filter(|shown| shown["waiting"] == 0)
    })
    .await;
    assert!(shown["last_delivered_at"].is_string() && shown.get("last_failure").is_none(), "{shown}");
    assert_eq!(shown.get("secret"), None);
    assert!(eves.heard().is_empty());
    eve.get(&format!("/v1/channels/{}", made["id"].as_str().expect("an id"))).await.is_error(404, "not_found");
}

/// By another program than ours.
fn hmac(secret: &str, text: &str) -> String {
    use std::io::Write;
    let mut openssl = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", secret])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("openssl");
    openssl.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let out = openssl.wait_with_output().expect("ended");
    String::from_utf8(out.stdout).expect("text").trim().rsplit(' ').next().expect("a word").to_owned()
}

#[tokio::test]
async fn each_provider_is_spoken_to_as_it_wants_and_tried_before_it_is_kept() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    let receiver = Receiver::start(&[(200, "")]).await;
    let url = receiver.url("/in");
    let cases = [
        ("webhook", json!({"url": url, "secret": "mine"})),
        ("discord", json!({"webhook_url": url})),
        ("slack", json!({"webhook_url": url})),
        ("teams", json!({"webhook_url": url})),
        ("googlechat", json!({"webhook_url": url})),
        ("telegram", json!({"bot_token": "123:abc", "chat_id": "-10042", "api_url": receiver.url("")})),
        ("matrix", json!({"homeserver_url": receiver.url("/"), "access_token": "syt_x", "room_id": "!r:example.com"})),
    ];
    for (number, (provider, config)) in cases.iter().enumerate() {
        let body = json!({"provider": provider, "config": config});
        let answer = ann.post("/v1/channels/test", body).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"status": "ok"})), "{provider}");
        let call = receiver.wait_for(number + 1).await.pop().expect("one");
        let text = |value: &Value| {
            let text = value.as_str().expect("text");
            assert!(
                text.contains("This is a test") && text.contains("Actor: user ann@example.com"),
                "{provider}: {text}"
            );
        };
        let said = call.json();
        match *provider {
            "webhook" => {
                assert_eq!((said["event"].as_str(), said["team_id"].as_str()), (Some("channel.test"), Some("test")));
                let signed = format!("{}.{}", call.header("x-wrenn-timestamp"), call.body);
                assert_eq!(call.header("x-wrenn-signature"), format!("sha256={}", hmac("mine", &signed)));
            }
            "discord" => {
                assert_eq!(call.path, "/in?wait=true");
                assert_eq!(said["allowed_mentions"], json!({"parse": []}));
                text(&said["content"]);
            }
            "slack" | "googlechat" => text(&said["text"]),
            "teams" => {
                let card = &said["attachments"][0];
                assert_eq!(card["contentType"], "application/vnd.microsoft.card.adaptive");
                assert!(card["content"]["body"][0]["text"].as_str().expect("text").contains("This is a test"));
            }
            "telegram" => {
                assert_eq!((call.path.as_str(), said["chat_id"].as_str()), ("/bot123:abc/sendMessage", Some("-10042")));
                text(&said["text"]);
            }
            "matrix" => {
                assert_eq!(call.method, Method::PUT);
                let path = "/_matrix/client/v3/rooms/%21r%3Aexample.com/send/m.room.message/evt-";
                assert!(call.path.starts_with(path), "{}", call.path);
                assert_eq!(
                    (call.header("authorization"), said["msgtype"].as_str()),
                    ("Bearer syt_x", Some("m.notice"))
                );
                text(&said["body"]);
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(ann.get("/v1/channels").await.json(), json!([]), "nothing is kept");
    // What is not taken is said, and where it was sent is not.
    receiver.now_answers(404);
    let secret = receiver.url("/hunter2");
    let body = json!({"provider": "slack", "config": {"webhook_url": secret}});
    let refused = ann.post("/v1/channels/test", body).await.is_error(400, "invalid_request");
    assert!(refused.contains("404") && !refused.contains("hunter2"), "{refused}");
    let body = json!({"provider": "slack", "config": {"webhook_url": "http://127.0.0.1:1/hunter2"}});
    let refused = ann.post("/v1/channels/test", body).await.is_error(400, "invalid_request");
    assert!(refused.contains("cannot be reached") && !refused.contains("hunter2"), "{refused}");
}

#[tokio::test]
async fn what_is_not_taken_waits_in_order_is_tried_again_and_is_given_up_in_the_end() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    let receiver = Receiver::start(&[(500, "")]).await;
    let made = webhook(&mut ann, "hook", &receiver.url("/")).await;
    let ids = [capsule(&mut ann).await, capsule(&mut ann).await];
    let heard = receiver.wait_for(3).await;
    // The first in line, again and again, each time the same event.
    assert!(heard.iter().all(|call| call.header("x-wrenn-event") == heard[0].header("x-wrenn-event")));
    assert_ne!(heard[0].header("x-wrenn-delivery"), heard[1].header("x-wrenn-delivery"));
    let shown = wait_until("both wait", SOON, || async {
        Some(channel(&ann, &made).await).filter(|shown| shown["waiting"] == 2 && shown["last_failure"].is_object())
    })
    .await;
    assert!(shown["last_failure"]["error"].as_str().expect("text").contains("500"), "{shown}");
    receiver.now_answers(200);
    wait_until("both are taken", SOON, || async { (channel(&ann, &made).await["waiting"] == 0).then_some(()) }).await;
    let mut taken: Vec<_> = receiver.heard().iter().map(|call| call.of().1).collect();
    taken.dedup();
    taken.sort();
    let mut expected = ids.to_vec();
    expected.sort();
    assert_eq!(taken, expected);

    // One that is itself refused makes way soon, one that nobody takes after all tries.
    for (status, tries) in [(422, CHANNEL_REFUSALS_MAX), (503, CHANNEL_TRIES_MAX)] {
        receiver.heard.lock().expect("whole").clear();
        receiver.now_answers(status);
        let before = channel(&ann, &made).await["given_up"].as_u64().expect("a number");
        capsule(&mut ann).await;
        wait_until("it is given up", SOON, || async {
            let shown = channel(&ann, &made).await;
            (shown["given_up"] == before + 1 && shown["waiting"] == 0).then_some(())
        })
        .await;
        assert_eq!(receiver.heard().len() as u32, tries, "{status}");
    }
}

#[tokio::test]
async fn a_slow_channel_holds_up_itself_alone_and_a_redirect_is_no_delivery() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", silent.local_addr().expect("an address"));
    webhook(&mut ann, "silent", &url).await;
    let (quick, moved) = (Receiver::start(&[(200, "")]).await, Receiver::start(&[(302, "")]).await);
    webhook(&mut ann, "quick", &quick.url("/")).await;
    let away = webhook(&mut ann, "moved", &moved.url("/")).await;
    for _ in 0..3 {
        capsule(&mut ann).await;
    }
    quick.wait_for(3).await;
    moved.wait_for(2).await;
    let shown = channel(&ann, &away).await;
    assert!(shown["last_failure"]["error"].as_str().expect("text").contains("302"), "{shown}");
}

#[tokio::test]
async fn a_channel_that_asks_to_be_left_alone_is() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    let receiver = Receiver::start(&[(429, "1.5"), (200, "")]).await;
    webhook(&mut ann, "hook", &receiver.url("/")).await;
    let began = std::time::Instant::now();
    capsule(&mut ann).await;
    receiver.wait_for(2).await;
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_channel_is_changed_configured_anew_and_deleted_by_members_and_the_log_says_so() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    house.person("ben@example.com").await;
    ann.add_member("ben@example.com").await;
    let mut ben = house.log_in("ben@example.com").await;
    let switched = ben.post("/v1/auth/switch-team", json!({"team_id": ann.team()})).await;
    assert_eq!(switched.status, 200);
    let (wrong, right) = (Receiver::start(&[(500, "")]).await, Receiver::start(&[(200, "")]).await);
    let made = webhook(&mut ben, "hook", &wrong.url("/")).await;
    let (id, secret) = (made["id"].as_str().expect("an id"), made["secret"].as_str().expect("a secret"));
    let path = format!("/v1/channels/{id}");
    capsule(&mut ann).await;
    wrong.wait_for(2).await;
    // What waits goes to where it should have gone, signed with the secret there was.
    let configured = ann.put(&format!("{path}/config"), json!({"config": {"url": right.url("/")}})).await;
    assert_eq!((configured.status.as_u16(), configured.json().get("secret")), (200, None));
    let call = right.wait_for(1).await.remove(0);
    let signed = format!("{}.{}", call.header("x-wrenn-timestamp"), call.body);
    assert_eq!(call.header("x-wrenn-signature"), format!("sha256={}", hmac(secret, &signed)));

    let changed = ann.patch(&path, json!({"name": "Other", "events": ["host.down"]})).await;
    assert_eq!(
        (changed.status.as_u16(), &changed.json()["name"], &changed.json()["events"]),
        (200, &json!("other"), &json!(["host.down"]))
    );
    webhook(&mut ann, "hook", &right.url("/")).await;
    let taken = json!({"name": "hook", "events": EVENTS});
    ann.patch(&path, taken.clone()).await.is_error(409, "conflict");
    let again = json!({"name": "HOOK", "provider": "webhook", "config": {"url": right.url("/")}, "events": EVENTS});
    ann.post("/v1/channels", again).await.is_error(409, "conflict");
    for _ in 0..2 {
        assert_eq!(ann.delete(&path).await.status, 204);
    }
    ann.get(&path).await.is_error(404, "not_found");
    ann.patch(&path, taken).await.is_error(404, "not_found");
    ann.put(&format!("{path}/config"), json!({"config": {"url": right.url("/")}})).await.is_error(404, "not_found");
    let log = ann.get("/v1/audit-logs?resource_type=channel").await.json();
    let acts: Vec<_> = log["items"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["action"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(acts, ["delete", "create", "update", "rotate_config", "create"]);
    assert!(!log.to_string().contains("127.0.0.1"), "{log}");
}

#[tokio::test]
async fn what_cannot_be_a_channel_is_refused_with_the_reason() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    let good =
        json!({"name": "x", "provider": "slack", "config": {"webhook_url": "http://127.0.0.1:1/"}, "events": EVENTS});
    for (field, value, said) in [
        ("name", json!("../x"), "name"),
        ("provider", json!("pigeon"), "webhook, discord"),
        ("config", json!({}), "webhook_url"),
        ("config", json!({"webhook_url": "http://127.0.0.1:1/", "url": "x"}), "not \"url\""),
        ("config", json!({"webhook_url": "gopher://x"}), "https://"),
        ("config", json!({"webhook_url": "http://u:hunter2@127.0.0.1:1/"}), "user name"),
        ("config", json!({"webhook_url": 7}), ""),
        ("events", json!([]), "at least one"),
        ("events", json!(["capsule.state.changed"]), "none of"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let text = ann.post("/v1/channels", bad).await.is_error(400, "invalid_request");
        assert!(text.contains(said) && !text.contains("hunter2"), "{field}: {text}");
    }
    for number in 0..CHANNELS_PER_TEAM_MAX {
        let mut one = good.clone();
        one["name"] = json!(format!("x{number}"));
        assert_eq!(ann.post("/v1/channels", one).await.status, 201);
    }
    let text = ann.post("/v1/channels", good).await.is_error(409, "conflict");
    assert!(text.contains("at most 20"), "{text}");
    house
        .browser()
        .post("/v1/channels/test", json!({"provider": "slack", "config": {}}))
        .await
        .is_error(401, "unauthorized");
}

#[tokio::test]
async fn nothing_leads_to_this_machine_unless_it_may_and_without_a_key_there_are_no_channels() {
    let house = House::with(&[("WRENN_ENCRYPTION_KEY", KEY)], |builder| builder).await;
    let mut ann = house.person("ann@example.com").await;
    let receiver = Receiver::start(&[(200, "")]).await;
    let port = receiver.addr.port();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "2130706433", "0x7f.1"]
    {
        let config = json!({"url": format!("http://{host}:{port}/")});
        let body = json!({"name": "x", "provider": "webhook", "config": config, "events": EVENTS});
        let text = ann.post("/v1/channels", body).await.is_error(400, "invalid_request");
        assert!(text.contains("public internet") || text.contains("resolved"), "{host}: {text}");
        ann.post("/v1/channels/test", json!({"provider": "webhook", "config": config}))
            .await
            .is_error(400, "invalid_request");
    }
    // One that was kept while it was allowed is judged again when the connection is made.
    let open = house.another_plane(&SETTINGS, |builder| builder).await;
    let mut elsewhere = ann.moved_to(&open);
    let made = webhook(&mut elsewhere, "hook", &format!("http://localhost:{port}/")).await;
    open.end().await;
    capsule(&mut ann).await;
    let shown = wait_until("it is refused", SOON, || async {
        Some(channel(&ann, &made).await).filter(|shown| shown["last_failure"].is_object())
    })
    .await;
    assert!(shown["last_failure"]["error"].as_str().expect("text").contains("public internet"), "{shown}");
    assert!(receiver.heard().is_empty());

    let keyless = house.another_plane(&[PRIVATE], |builder| builder).await;
    let body = json!({"name": "y", "provider": "webhook", "config": {"url": receiver.url("/")}, "events": EVENTS});
    let text = ann.moved_to(&keyless).post("/v1/channels", body).await.is_error(501, "not_configured");
    assert!(text.contains("WRENN_ENCRYPTION_KEY"), "{text}");
}

#[tokio::test]
async fn a_new_key_opens_what_the_old_one_sealed_and_nothing_lies_open_in_the_database() {
    let mut house = house().await;
    let mut ann = house.person("ann@example.com").await;
    let receiver = Receiver::start(&[(200, "")]).await;
    let made = webhook(&mut ann, "hook", &receiver.url("/hunter2")).await;
    let secret = made["secret"].as_str().expect("a secret");
    let open: bool = sqlx::query_scalar(
        "SELECT position($1::bytea IN config) > 0 OR position($2::bytea IN config) > 0 FROM channels",
    )
    .bind(&b"hunter2"[..])
    .bind(secret.as_bytes())
    .fetch_one(house.database.store().pool())
    .await
    .expect("asked");
    assert!(!open);
    let both = format!("{OTHER_KEY},{KEY}");
    change_key(&mut house, &both).await;
    let mut ann = ann.moved_to(&house.plane);
    capsule(&mut ann).await;
    receiver.wait_for(1).await;
    change_key(&mut house, OTHER_KEY).await;
    let mut ann = ann.moved_to(&house.plane);
    capsule(&mut ann).await;
    let shown = wait_until("it says that the key is gone", SOON, || async {
        Some(channel(&ann, &made).await).filter(|shown| shown["last_failure"].is_object())
    })
    .await;
    assert!(shown["last_failure"]["error"].as_str().expect("text").contains("WRENN_ENCRYPTION_KEY"), "{shown}");
}

/// Another control plane, with another key, instead of the one there is.
async fn change_key(house: &mut House, key: &str) {
    let next = house.another_plane(&[("WRENN_ENCRYPTION_KEY", key), PRIVATE], |builder| builder).await;
    std::mem::replace(&mut house.plane, next).end().await;
}

#[tokio::test]
async fn what_comes_while_too_much_waits_is_counted_and_holds_nothing_up() {
    let house = house().await;
    let mut ann = house.person("ann@example.com").await;
    let receiver = Receiver::start(&[(429, "3600")]).await;
    let made = webhook(&mut ann, "hook", &receiver.url("/")).await;
    capsule(&mut ann).await;
    receiver.wait_for(1).await;
    let full =
        "INSERT INTO channel_events (channel_id, payload) SELECT id, '{}' FROM channels, generate_series(2, 1000)";
    assert_eq!(house.sql(full).await as i64, CHANNEL_WAITING_MAX - 1);
    let id = capsule(&mut ann).await;
    is_now(&ann, &id, "running").await;
    let shown = channel(&ann, &made).await;
    assert_eq!(
        (shown["waiting"].as_i64(), shown["given_up"].as_u64()),
        (Some(CHANNEL_WAITING_MAX), Some(1)),
        "{shown}"
    );
    // A team's end is its channels' end.
    let team = ann.team();
    assert_eq!(ann.delete(&format!("/v1/teams/{team}")).await.status, 204);
    assert_eq!(house.count("SELECT count(*) FROM channels").await, 0);
    assert_eq!(house.count("SELECT count(*) FROM channel_events").await, 0);
}

/// Killed at every step of a delivery: the next control plane delivers, and who heard it twice can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_killed_loses_nothing() {
    for point in [FaultPoint::ChannelClaimed, FaultPoint::ChannelSent] {
        let (faults, mut caught, armed) = traps(vec![point]);
        let mut house = House::with(&SETTINGS, |builder| builder.faults(faults)).await;
        let mut ann = house.person("ann@example.com").await;
        let receiver = Receiver::start(&[(200, "")]).await;
        let made = webhook(&mut ann, "hook", &receiver.url("/")).await;
        armed.store(true, Ordering::SeqCst);
        let id = capsule(&mut ann).await;
        tokio::time::timeout(SOON, caught.recv()).await.expect("reached").expect("told");
        let next = house.another_plane(&SETTINGS, |builder| builder).await;
        std::mem::replace(&mut house.plane, next).kill();
        let ann = ann.moved_to(&house.plane);
        wait_until("nothing waits", SOON, || async { (channel(&ann, &made).await["waiting"] == 0).then_some(()) })
            .await;
        let heard = receiver.heard();
        assert_eq!(heard.len(), if point == FaultPoint::ChannelSent { 2 } else { 1 }, "{point:?}");
        assert!(heard.iter().all(|call| call.of() == ("capsule.create".to_owned(), id.clone())), "{point:?}");
        assert!(heard.iter().all(|call| call.header("x-wrenn-event") == heard[0].header("x-wrenn-event")));
    }
}
