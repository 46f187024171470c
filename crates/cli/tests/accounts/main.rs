//! `wrenn login` and what it opens, against a real control plane.

mod browser;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use wrenn_control::service::accounts::{EnsureAccount, ensure};
use wrenn_control::{Config, Server};
use wrenn_testkit::host::Guest;
use wrenn_testkit::{Database, SimHost};

const SOON: Duration = Duration::from_secs(30);
const EMAIL: &str = "ann@example.com";

struct World {
    base: String,
    password: String,
    dir: tempfile::TempDir,
    database: Database,
    _host: SimHost,
}

impl World {
    async fn start() -> Self {
        let (database, host) = (Database::fresh().await, SimHost::start(Guest::None).await);
        let dir = tempfile::tempdir().expect("a directory");
        let mut settings = host.settings(&database);
        settings.insert("WRENN_DIR".to_owned(), dir.path().display().to_string());
        settings.insert("WRENN_ENCRYPTION_KEY".to_owned(), "7".repeat(64));
        settings.insert("WRENN_CHANNELS_ALLOW_PRIVATE".to_owned(), "true".to_owned());
        let config = Config::parse(&settings).expect("valid");
        let server = Server::builder().config(config).bind().await.expect("binds");
        let base = format!("http://{}", server.local_addr().expect("bound"));
        tokio::spawn(server.serve());
        let wish = EnsureAccount {
            email: EMAIL.parse().expect("an address"),
            name: "Ann".parse().expect("a name"),
            admin: true,
            team: None,
        };
        let (_, password) = ensure(&database.store(), wish).await.expect("an account");
        Self { base, password, dir, database, _host: host }
    }

    fn contexts(&self) -> PathBuf {
        self.dir.path().join("contexts/contexts.json")
    }

    fn wrenn(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wrenn"));
        command
            .args(args)
            .env_clear()
            .env("WRENN_CONTEXTS", self.contexts())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        tokio::time::timeout(SOON, self.wrenn(args).output()).await.expect("in time").expect("starts")
    }

    /// Standard output of a command that must work.
    async fn says(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).expect("UTF-8").trim().to_owned()
    }

    async fn json(&self, args: &[&str]) -> Value {
        let text = self.says(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Approves a code as the person would in the browser.
    async fn approve(&self, code: &str) {
        let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let mut cookies = BTreeMap::new();
        for (path, body) in [
            ("/v1/auth/login", json!({"email": EMAIL, "password": self.password})),
            ("/v1/auth/device/approve", json!({"user_code": code})),
        ] {
            let line: Vec<String> = cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let request = Request::builder()
                .method(Method::POST)
                .uri(format!("{}{path}", self.base))
                .header("content-type", "application/json")
                .header("cookie", line.join("; "))
                .header("x-csrf-token", cookies.get("wrenn_csrf").map_or("", String::as_str))
                .body(Full::from(body.to_string()))
                .expect("valid");
            let answer = client.request(request).await.expect("an answer");
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            for line in answer.headers().get_all("set-cookie") {
                let (name, rest) = line.to_str().expect("text").split_once('=').expect("a pair");
                cookies.insert(name.to_owned(), rest.split(';').next().unwrap_or_default().to_owned());
            }
            answer.into_body().collect().await.expect("whole");
        }
    }

    /// `wrenn login` that waits: the program, the page it names, the code it shows.
    async fn begin_login(&self) -> (Child, String, String) {
        let mut login = self.wrenn(&["--base-url", &self.base, "login"]).spawn().expect("starts");
        let mut lines = BufReader::new(login.stderr.take().expect("piped")).lines();
        let mut page = String::new();
        loop {
            let line = lines.next_line().await.expect("readable").expect("a line with the code");
            if let Some(url) = line.strip_prefix("Open ") {
                page = url.trim().to_owned();
            }
            if let Some((_, code)) = line.split_once("the code ") {
                return (login, page, code.trim().to_owned());
            }
        }
    }

    /// `wrenn login`, approved.
    async fn log_in(&self) {
        let (login, _, code) = self.begin_login().await;
        self.approve(&code).await;
        let ended = tokio::time::timeout(SOON, login.wait_with_output()).await.expect("in time").expect("ends");
        assert!(ended.status.success(), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stdout).contains(EMAIL), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_by_the_browser_and_manages_teams_keys_and_log() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::start().await;
    let lost = world.run(&["whoami"]).await;
    assert!(String::from_utf8_lossy(&lost.stderr).contains("wrenn login"), "{lost:?}");
    world.log_in().await;
    let mode = world.contexts().metadata().expect("written").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // From here on neither URL nor key is given.
    assert_eq!(world.json(&["whoami"]).await["email"], EMAIL);
    let teams = world.json(&["team", "list"]).await;
    let first = teams[0]["id"].as_str().expect("an id").to_owned();
    let made = world.says(&["team", "create", "Second"]).await;
    assert!(world.says(&["team", "list"]).await.contains(&made));
    world.says(&["team", "rename", &made, "Renamed"]).await;
    assert_eq!(world.json(&["team", "get", &made]).await["team"]["name"], "Renamed");
    let bob = EnsureAccount {
        email: "bob@example.com".parse().expect("an address"),
        name: "Bob".parse().expect("a name"),
        admin: false,
        team: None,
    };
    ensure(&world.database.store(), bob).await.expect("an account");
    world.says(&["team", "add", &made, "bob@example.com"]).await;
    world.says(&["team", "role", &made, "bob@example.com", "admin"]).await;
    assert_eq!(world.json(&["team", "get", &made]).await["members"][1]["role"], "admin");
    world.says(&["team", "remove", &made, "bob@example.com"]).await;
    let gone = world.run(&["team", "remove", &made, "bob@example.com"]).await;
    assert!(!gone.status.success());
    assert!(!world.run(&["team", "delete", &made]).await.status.success(), "not without --yes");
    world.says(&["team", "delete", &made, "--yes"]).await;

    let key = world.says(&["key", "create", "ci", "--expires", "7"]).await;
    assert!(key.starts_with("wrn_"), "{key}");
    let listed = world.json(&["key", "list"]).await;
    let id = listed.as_array().expect("a list").iter().find(|k| k["name"] == "ci").expect("it")["id"].clone();
    assert!(!listed.to_string().contains(&key));
    assert_eq!(world.json(&["--api-key", &key, "whoami"]).await["credential"], "team_key");
    world.says(&["key", "revoke", id.as_str().expect("text")]).await;
    assert!(!world.run(&["--api-key", &key, "whoami"]).await.status.success());
    let log = world.json(&["audit", "--type", "api_key", "--team", &first]).await;
    assert_eq!(
        (log["items"][0]["action"].as_str(), log["items"][0]["actor_name"].as_str()),
        (Some("revoke"), Some(EMAIL))
    );
    assert!(world.says(&["audit"]).await.contains(EMAIL));

    let elsewhere = world.run(&["--base-url", "http://127.0.0.1:1", "whoami"]).await;
    assert!(
        String::from_utf8_lossy(&elsewhere.stderr).contains("no API key"),
        "the key goes to its server only: {elsewhere:?}"
    );
    world.says(&["logout"]).await;
    assert!(!world.run(&["whoami"]).await.status.success());
}

/// Somebody's server: says 200 to everything, and counts.
async fn receiver() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let counted = counted.clone();
            let service = service_fn(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (url, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_are_tried_made_looked_at_changed_and_deleted() {
    let world = World::start().await;
    world.log_in().await;
    let (url, calls) = receiver().await;
    let config = format!("url={url}");
    assert!(world.says(&["channel", "test", "webhook", "-c", &config]).await.contains("took the test"));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The address need not stand in the list of processes.
    std::fs::write(world.dir.path().join("hook.txt"), format!("{url}\n")).expect("written");
    let made = world.json(&["channel", "create", "On Call", "webhook", "-c", "url=@hook.txt"]).await;
    assert_eq!((made["name"].as_str(), made["secret"].as_str().map(str::len)), (Some("on-call"), Some(64)));
    let id = made["id"].as_str().expect("an id");
    world.says(&["capsule", "create"]).await;
    tokio::time::timeout(SOON, async {
        while world.json(&["channel", "get", "on-call"]).await["last_delivered_at"].is_null() {}
    })
    .await
    .expect("delivered");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let listed = world.says(&["channel", "ls"]).await;
    assert!(listed.contains(id) && listed.contains("on-call") && !listed.contains(&url), "{listed}");
    world.says(&["channel", "update", "on-call", "--events", "host.down", "--name", "ops"]).await;
    assert_eq!(world.json(&["channel", "get", id]).await["events"], json!(["host.down"]));
    world.says(&["channel", "config", "ops", "-c", &config]).await;
    for (args, said) in [
        (vec!["channel", "create", "x", "pigeon", "-c", "url=x"], "webhook, discord"),
        (vec!["channel", "create", "x", "webhook", "-c", "url"], "NAME=VALUE"),
        (vec!["channel", "create", "x", "slack", "-c", "url=https://x"], "webhook_url"),
        (vec!["channel", "create", "x", "webhook", "-c", "url=@nowhere"], "cannot open nowhere"),
        (vec!["channel", "create", "x", "webhook", "-c", &config, "-e", "sun.up"], "capsule.create"),
        (vec!["channel", "update", "ops"], "--name"),
        (vec!["channel", "get", "nobody"], "wrenn channel list"),
    ] {
        let ended = world.run(&args).await;
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && text.contains(said), "{args:?}: {text}");
    }
    world.says(&["channel", "delete", "ops"]).await;
    assert_eq!(world.json(&["channel", "list"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_key_is_kept_beside_other_logins_if_it_works() {
    let world = World::start().await;
    let (_, _, key) =
        wrenn_control::service::keys::create(&world.database.store(), "robots", "ci").await.expect("a key");
    for (text, works) in [("wrn_00000000000000000000000000000000", false), ("nonsense", false), (&*key.reveal(), true)]
    {
        let mut login = world
            .wrenn(&["--base-url", &world.base, "login", "--with-key", "--name", "robot"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = login.stdin.take().expect("piped");
        stdin.write_all(format!("{text}\n").as_bytes()).await.expect("taken");
        drop(stdin);
        let ended = tokio::time::timeout(SOON, login.wait_with_output()).await.expect("in time").expect("ends");
        assert_eq!(ended.status.success(), works, "{ended:?}");
        assert!(!String::from_utf8_lossy(&ended.stderr).contains(&key.reveal()));
    }
    world.log_in().await;
    let list = world.json(&["context", "list"]).await;
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    assert_eq!(world.json(&["--context", "robot", "whoami"]).await["team_name"], "robots");
    world.says(&["context", "use", "robot"]).await;
    assert_eq!(world.json(&["whoami"]).await["credential"], "team_key");
    assert!(!world.run(&["context", "use", "nobody"]).await.status.success());
    // A team's key is used by others too: logging out forgets it here and revokes nothing.
    assert_eq!(world.json(&["logout"]).await["revoked"], false);
    assert_eq!(
        world.json(&["--base-url", &world.base, "--api-key", &key.reveal(), "whoami"]).await["team_name"],
        "robots"
    );
}
