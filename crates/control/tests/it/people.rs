//! A control plane with people: browsers with cookies, mail that is read, addresses to come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use wrenn_control::Config;
use wrenn_control::server::Builder;
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost, wait_until};

use crate::harness::{Answer, Api, Plane, SOON, host_is_known, settings};

pub const PASSWORD: &str = "correct horse battery";

/// Database, host, control plane, mail.
pub struct House {
    pub database: Database,
    pub host: SimHost,
    pub plane: Plane,
    pub dir: PathBuf,
}

impl House {
    pub async fn start() -> Self {
        Self::with(&[], |builder| builder).await
    }

    /// With more settings and parts of a distribution.
    pub async fn with(extra: &[(&str, &str)], parts: impl FnOnce(Builder) -> Builder) -> Self {
        let database = Database::fresh().await;
        let host = SimHost::start(Guest::None).await;
        let plane = Plane::launch(house_config(&database, &host, extra), parts).await;
        host_is_known(&database).await;
        let dir = std::env::temp_dir().join(format!("wrenn-it-{}", database.name));
        Self { database, host, plane, dir }
    }

    /// One more control plane on the same database and Redis.
    pub async fn second_plane(&self) -> Plane {
        self.another_plane(&[], |builder| builder).await
    }

    /// One more, with settings and parts of a distribution.
    pub async fn another_plane(&self, extra: &[(&str, &str)], parts: impl FnOnce(Builder) -> Builder) -> Plane {
        Plane::launch(house_config(&self.database, &self.host, extra), parts).await
    }

    /// A browser that never was here.
    pub fn browser(&self) -> Browser {
        Browser::at(self.plane.url(""))
    }

    /// Signs up; answers the activation token of the mail.
    pub async fn pending(&self, email: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD, "name": "Ann O'Neil"});
        assert_eq!(self.browser().post("/v1/auth/signup", body).await.status, 201);
        self.token("activation", email).await
    }

    /// A logged-in browser of a new account.
    pub async fn person(&self, email: &str) -> Browser {
        let token = self.pending(email).await;
        let mut browser = self.browser();
        let answer = browser.post("/v1/auth/activate", json!({"token": token, "password": PASSWORD})).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        browser.me = answer.json();
        // As `wrenn-cp admin create` does: the first person of a house runs it.
        self.sql(
            "UPDATE users SET is_admin = true WHERE status = 'active' AND (SELECT count(*) FROM users WHERE status = 'active') = 1",
        )
        .await;
        browser
    }

    /// Logs a known account in with the usual password.
    pub async fn log_in(&self, email: &str) -> Browser {
        let mut browser = self.browser();
        let answer = browser.post("/v1/auth/login", json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        browser.me = answer.json();
        browser
    }

    /// The token in the newest mail of this kind to this address; the mail is removed.
    pub async fn token(&self, kind: &str, email: &str) -> String {
        token_in(&self.mail(kind, email).await)
    }

    /// Waits for a mail of this kind to this address, and removes it.
    pub async fn mail(&self, kind: &str, email: &str) -> String {
        wait_until(&format!("a mail {kind} to {email}"), SOON, || async { self.mails(kind, email, true).pop() }).await
    }

    /// Mails of this kind to this address now.
    pub fn mails(&self, kind: &str, email: &str, take: bool) -> Vec<String> {
        mails_in(&self.dir, kind, email, take)
    }

    /// Waits until every mail left and every hook was told.
    pub async fn nothing_is_owed(&self) {
        wait_until("nothing is owed", SOON, || async {
            (self.count("SELECT count(*) FROM outbound_jobs WHERE died_at IS NULL").await == 0).then_some(())
        })
        .await;
    }

    /// Runs a statement on the database.
    pub async fn sql(&self, statement: &'static str) -> u64 {
        sqlx::query(statement).execute(self.database.store().pool()).await.expect("executed").rows_affected()
    }

    /// One number of the database.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(self.database.store().pool()).await.expect("asked")
    }

    /// Writes an entry into the Redis of this test, as anybody could who reaches it.
    pub async fn put_redis(&self, key: &str, value: &str) {
        let client = redis::Client::open(self.database.redis_url.as_str()).expect("a client");
        let mut redis = client.get_multiplexed_async_connection().await.expect("connects");
        let key = format!("{}{key}", self.database.redis_prefix);
        redis::cmd("SET").arg(key).arg(value).query_async::<()>(&mut redis).await.expect("written");
    }

    /// Reads an entry of the Redis of this test.
    pub async fn get_redis(&self, key: &str) -> Option<String> {
        let client = redis::Client::open(self.database.redis_url.as_str()).expect("a client");
        let mut redis = client.get_multiplexed_async_connection().await.expect("connects");
        let key = format!("{}{key}", self.database.redis_prefix);
        redis::cmd("GET").arg(key).query_async(&mut redis).await.expect("asked")
    }

    /// Removes everything this test put into Redis.
    pub async fn empty_redis(&self) {
        let client = redis::Client::open(self.database.redis_url.as_str()).expect("a client");
        let mut redis = client.get_multiplexed_async_connection().await.expect("connects");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}*", self.database.redis_prefix))
            .query_async(&mut redis)
            .await
            .expect("asked");
        for key in keys {
            redis::cmd("DEL").arg(key).query_async::<()>(&mut redis).await.expect("deleted");
        }
    }
}

/// Mails of this kind to this address in the directory of a control plane.
pub fn mails_in(dir: &Path, kind: &str, email: &str, take: bool) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.join("mail")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if !name.contains(&format!("-{kind}-")) || !name.ends_with(".eml") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if text.contains(&format!("To: {email}")) {
            if take {
                let _ = std::fs::remove_file(&path);
            }
            found.push(text);
        }
    }
    found
}

/// The token in a mail.
pub fn token_in(mail: &str) -> String {
    let text = mail.replace("=\r\n", "").replace("=3D", "=");
    let (_, rest) = text.split_once("?token=").expect("a link with a token");
    rest[..64].to_owned()
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn house_config(database: &Database, host: &SimHost, extra: &[(&str, &str)]) -> Config {
    let mut values = settings(&database.url, database, host);
    values.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    Config::parse(&values).expect("valid settings")
}

/// A browser: keeps cookies, sends the CSRF token, comes from an address of its own.
#[derive(Clone)]
pub struct Browser {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    pub cookies: BTreeMap<String, String>,
    pub address: String,
    /// What the login answered.
    pub me: Value,
}

impl Browser {
    pub fn at(base: String) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            base,
            client: Client::builder(TokioExecutor::new()).build_http(),
            cookies: BTreeMap::new(),
            address: format!("198.51.{}.{}", std::process::id() % 250, n),
            me: Value::Null,
        }
    }

    /// The same browser at another control plane.
    pub fn moved_to(&self, plane: &Plane) -> Self {
        Self { base: plane.url(""), ..self.clone() }
    }

    pub fn text(&self, field: &str) -> String {
        self.me[field].as_str().unwrap_or_default().to_owned()
    }

    pub fn team(&self) -> String {
        self.text("team_id")
    }

    pub fn user(&self) -> String {
        self.text("user_id")
    }

    /// A request as the browser makes it, without body.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.base))
            .header("x-forwarded-for", &self.address)
            .header("user-agent", "test browser");
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            request = request.header("cookie", cookies.join("; "));
        }
        if let Some(csrf) = self.cookies.get("wrenn_csrf").filter(|_| method != Method::GET) {
            request = request.header("x-csrf-token", csrf);
        }
        request
    }

    /// Sends a request and keeps the cookies of the answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let answer = self.send_only(request).await;
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().expect("text");
            let (pair, attributes) = line.split_once(';').expect("attributes");
            let (name, value) = pair.split_once('=').expect("a pair");
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    async fn send_only(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.client.request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Without keeping cookies.
    pub async fn get(&self, path: &str) -> Answer {
        self.send_only(self.request(Method::GET, path).body(Full::default()).expect("valid")).await
    }

    /// Follows no redirect; keeps cookies.
    pub async fn visit(&mut self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Full::default()).expect("valid")).await
    }

    pub async fn call(&mut self, method: Method, path: &str, body: Value) -> Answer {
        let request = self.request(method, path).header("content-type", "application/json");
        let body = if body.is_null() { Full::default() } else { Full::from(body.to_string()) };
        self.send(request.body(body).expect("valid")).await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, body).await
    }

    pub async fn put(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, body).await
    }

    pub async fn patch(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, body).await
    }

    pub async fn delete(&mut self, path: &str) -> Answer {
        self.call(Method::DELETE, path, Value::Null).await
    }

    /// Makes a key of the current team; answers its id and text.
    pub async fn new_key(&mut self) -> (String, String) {
        let made = self.post("/v1/api-keys", json!({"name": "test"})).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        let text = |field: &str| made.json()[field].as_str().expect("text").to_owned();
        (text("id"), text("key"))
    }

    /// Adds an account to the current team.
    pub async fn add_member(&mut self, email: &str) {
        let path = format!("/v1/teams/{}/members", self.team());
        let added = self.post(&path, json!({"email": email})).await;
        assert_eq!(added.status, 201, "{:?}", added.body);
    }

    /// A caller by API key at the same control plane.
    pub fn api(&self, key: &str) -> Api {
        Api::at(self.base.trim_start_matches("http://"), key)
    }
}

/// A personal key as `wrenn login` gets it.
pub async fn personal_key(house: &House, browser: &mut Browser) -> String {
    let mut program = house.browser();
    let begun = program.post("/v1/auth/device", json!({"client": "wrenn on laptop"})).await.json();
    let approved = browser.post("/v1/auth/device/approve", json!({"user_code": begun["user_code"]})).await;
    assert_eq!(approved.status, 204, "{:?}", approved.body);
    let answer = program.post("/v1/auth/device/token", json!({"device_code": begun["device_code"]})).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json()["api_key"].as_str().expect("a key").to_owned()
}
