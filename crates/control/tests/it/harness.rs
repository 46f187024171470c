//! A control plane to be started, asked, and killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wrenn_control::context::{Context, Tuning};
use wrenn_control::fault::{FaultPoint, Faults};
use wrenn_control::server::Builder;
use wrenn_control::{Config, Server, service};
use wrenn_testkit::host::{Guest, find_envd};
use wrenn_testkit::skip::require;
use wrenn_testkit::{Database, SimHost, wait_until};

/// Bound of every wait in these tests.
pub const SOON: Duration = Duration::from_secs(60);

/// One running control plane on a runtime of its own, so that it can be killed between any two steps.
pub struct Plane {
    runtime: Option<tokio::runtime::Runtime>,
    addr: SocketAddr,
    stop: CancellationToken,
    serving: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    /// Weak: a killed one must let go of its connections.
    ctx: std::sync::Weak<Context>,
}

impl Plane {
    /// Starts one with short times.
    pub async fn start(database_url: &str, database: &Database, host: &SimHost, faults: Faults) -> Self {
        Self::start_tuned(database_url, database, host, faults, quick()).await
    }

    pub async fn start_tuned(
        database_url: &str,
        database: &Database,
        host: &SimHost,
        faults: Faults,
        tuning: Tuning,
    ) -> Self {
        let config = config(database_url, database, host);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let bound = runtime
            .spawn(Server::builder().version("test").config(config).tuning(tuning).faults(faults).bind())
            .await
            .expect("no panic")
            .expect("binds");
        Self::serve(runtime, bound)
    }

    /// Starts one with parts of a distribution.
    pub async fn launch(config: Config, parts: impl FnOnce(Builder) -> Builder) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let builder = parts(Server::builder().version("test").config(config).tuning(quick()));
        let bound = runtime.spawn(builder.bind()).await.expect("no panic").expect("binds");
        Self::serve(runtime, bound)
    }

    fn serve(runtime: tokio::runtime::Runtime, bound: Server) -> Self {
        let (addr, stop) = (bound.local_addr().expect("bound"), bound.stop_token());
        let ctx = std::sync::Arc::downgrade(bound.context());
        let serving = runtime.spawn(bound.serve());
        Self { runtime: Some(runtime), addr, stop, serving: Some(serving), ctx }
    }

    /// Every task ends where it stands, as in a kill -9.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Ends as on SIGTERM.
    pub async fn end(mut self) {
        self.stop.cancel();
        let serving = self.serving.take().expect("serves");
        tokio::time::timeout(SOON, serving).await.expect("ends in time").expect("no panic").expect("ends well");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Whether anybody has a seat for its events.
    pub fn is_watched(&self) -> bool {
        self.ctx.upgrade().is_some_and(|ctx| ctx.feed.has_subscribers())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A caller with this key.
    pub fn api(&self, key: &str) -> Api {
        Api { base: self.url(""), key: key.to_owned(), client: Client::builder(TokioExecutor::new()).build_http() }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Times short enough for tests.
pub fn quick() -> Tuning {
    Tuning {
        lease: Duration::from_millis(1500),
        host_call: Duration::from_millis(1200),
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        recheck: Duration::from_millis(500),
        watch_wait: Duration::from_millis(500),
        watch_lease: Duration::from_millis(1500),
        compare_every: Duration::from_millis(500),
        host_silence: Duration::from_secs(60),
        reconcile_every: Duration::from_millis(100),
        create_give_up: Duration::from_secs(60),
        event_retry_min: Duration::from_millis(20),
        event_overdue: Duration::from_millis(800),
        mail_send: Duration::from_secs(2),
        mail_retry_min: Duration::from_millis(20),
        mail_retry_max: Duration::from_secs(2),
        channel_retry_min: Duration::from_millis(20),
        channel_retry_max: Duration::from_millis(200),
        fork_wait: Duration::from_secs(20),
        ..Tuning::default()
    }
}

/// As [`quick`], but nobody takes over what another is at, nor asks again, merely because the machine is slow.
pub fn patient() -> Tuning {
    Tuning { lease: 3 * SOON, recheck: 3 * SOON, host_call: SOON, ..quick() }
}

pub fn config(database_url: &str, database: &Database, host: &SimHost) -> Config {
    Config::parse(&settings(database_url, database, host)).expect("valid settings")
}

/// Settings of a control plane, to be changed before they are parsed.
pub fn settings(database_url: &str, database: &Database, host: &SimHost) -> BTreeMap<String, String> {
    let mut all = host.settings(database);
    let values = [
        ("DATABASE_URL", database_url.to_owned()),
        ("WRENN_CP_DB_CONNECTIONS", "8".to_owned()),
        ("WRENN_DIR", std::env::temp_dir().join(format!("wrenn-it-{}", database.name)).display().to_string()),
        // Tests choose the address they come from.
        ("WRENN_TRUSTED_PROXIES", "127.0.0.1".to_owned()),
    ];
    all.extend(values.map(|(name, value)| (name.to_owned(), value)));
    all
}

/// A hook that stops the world at one point, once, and tells.
pub fn trap(at: FaultPoint) -> (Faults, mpsc::UnboundedReceiver<()>, Arc<AtomicBool>) {
    traps(vec![at])
}

/// The same at several points: told once for each time one is reached.
pub fn traps(at: Vec<FaultPoint>) -> (Faults, mpsc::UnboundedReceiver<()>, Arc<AtomicBool>) {
    let (tell, told) = mpsc::unbounded_channel();
    let armed = Arc::new(AtomicBool::new(false));
    let set = armed.clone();
    let faults = Faults::with_hook(Arc::new(move |point| {
        let caught = at.contains(&point) && set.load(Ordering::SeqCst);
        if caught {
            let _ = tell.send(());
        }
        Box::pin(async move {
            if caught {
                std::future::pending::<()>().await;
            }
        })
    }));
    (faults, told, armed)
}

/// A caller of the API.
#[derive(Clone)]
pub struct Api {
    base: String,
    key: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts an error answer in the envelope.
    #[track_caller]
    pub fn is_error(&self, status: u16, code: &str) -> String {
        let body = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{body}");
        let id = self.json()["error"]["request_id"].as_str().unwrap_or_default().to_owned();
        assert_eq!(self.headers.get("x-request-id").and_then(|v| v.to_str().ok()), Some(id.as_str()));
        assert!(id.len() == 20 && id.starts_with("req_"), "{id}");
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Api {
    /// A caller of the server at this address.
    pub fn at(addr: &str, key: &str) -> Self {
        Self {
            base: format!("http://{addr}"),
            key: key.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// The answer, unless nobody listens.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        let request = self.request(Method::GET, path).body(Full::default()).expect("valid");
        let (parts, body) = self.client.request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.client.request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}{path}", self.base)).header("x-api-key", &self.key)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Full::default()).expect("valid")).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path).body(Full::default()).expect("valid")).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        self.send(request.body(Full::from(body.to_string())).expect("valid")).await
    }

    /// POST without a body, as published clients send pause and resume.
    pub async fn act(&self, id: &str, act: &str) -> Answer {
        let path = format!("/v1/capsules/{id}/{act}");
        self.send(self.request(Method::POST, &path).body(Full::default()).expect("valid")).await
    }

    /// Uploads with the usual form.
    pub async fn upload(&self, route: &str, path: &str, bytes: &[u8]) -> Answer {
        let form = form(&[("path", path.as_bytes()), ("file", bytes)]);
        let request = self.request(Method::POST, route).header("content-type", "multipart/form-data; boundary=XXX");
        self.send(request.body(Full::from(form)).expect("valid")).await
    }

    /// Creates a capsule and answers its id.
    pub async fn create(&self) -> String {
        let answer = self.post("/v1/capsules", serde_json::json!({})).await;
        assert_eq!(answer.status, 202, "{:?}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    pub async fn status(&self, id: &str) -> String {
        let answer = self.get(&format!("/v1/capsules/{id}")).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json()["status"].as_str().expect("a status").to_owned()
    }

    pub async fn wait_status(&self, id: &str, wanted: &str) {
        wait_until(&format!("{id} is {wanted}"), SOON, || async { (self.status(id).await == wanted).then_some(()) })
            .await;
    }

    pub async fn create_running(&self) -> String {
        let id = self.create().await;
        self.wait_status(&id, "running").await;
        id
    }
}

/// A multipart body with boundary XXX.
pub fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let file = if *name == "file" { "; filename=\"upload\"" } else { "" };
        body.extend_from_slice(
            format!("--XXX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XXX--\r\n");
    body
}

/// Database, host, control plane and a key.
pub struct World {
    pub database: Database,
    pub host: SimHost,
    pub plane: Plane,
    pub api: Api,
    pub key: String,
}

impl World {
    /// Without guests: life and death only.
    pub async fn start() -> Self {
        Self::with(Guest::None, Faults::default()).await
    }

    /// With a real envd in every sandbox; none only where WRENN_TEST_SKIP allows to do without.
    pub async fn with_envd() -> Option<Self> {
        let found = find_envd().ok_or("build it with `cargo build -p wrenn-envd`, or set WRENN_TEST_ENVD");
        Some(Self::with(Guest::Envd(require("envd", found)?), Faults::default()).await)
    }

    pub async fn with(guest: Guest, faults: Faults) -> Self {
        let database = Database::fresh().await;
        let host = SimHost::start(guest).await;
        let plane = Plane::start(&database.url, &database, &host, faults).await;
        let key = new_key(&database, "team").await;
        let api = plane.api(&key);
        host_is_known(&database).await;
        Self { database, host, plane, api, key }
    }
}

/// Makes a key for a team.
pub async fn new_key(database: &Database, team: &str) -> String {
    let store = database.store();
    let (_, _, key) = service::keys::create(&store, team, "test").await.expect("a key");
    key.reveal()
}

/// Waits until the host was heard of.
pub async fn host_is_known(database: &Database) {
    let store = database.store();
    wait_until("the host is online", SOON, || async {
        let hosts = store.host_loads().await.expect("a database");
        (!hosts.is_empty()).then_some(())
    })
    .await;
}

/// Keys of a JSON object whose values differ on each run, replaced.
pub fn blurred(mut value: Value) -> Value {
    const KEYS: [&str; 8] =
        ["id", "created_at", "started_at", "last_active_at", "last_updated", "request_id", "sandbox_id", "duration_ms"];
    if let Some(object) = value.as_object_mut() {
        let map: BTreeMap<String, Value> = object
            .iter()
            .map(|(key, value)| {
                let value = if KEYS.contains(&key.as_str()) && !value.is_null() {
                    Value::String(format!("[{key}]"))
                } else {
                    blurred(value.clone())
                };
                (key.clone(), value)
            })
            .collect();
        return serde_json::to_value(map).expect("JSON");
    }
    value
}
