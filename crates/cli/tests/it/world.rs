//! A control plane in this process, and the program run against it.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wrenn_control::{Config, Server, service};
use wrenn_testkit::host::{Guest, find_envd};
use wrenn_testkit::{Database, SimHost, wait_until};

/// Bound of every run of the program.
pub const RUN_MAX: Duration = Duration::from_secs(60);

pub struct World {
    pub host: SimHost,
    pub base_url: String,
    pub key: String,
    settings: BTreeMap<String, String>,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

/// The program while it runs, line by line.
pub struct Following {
    _program: tokio::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl World {
    /// Without guests: life and death only.
    pub async fn start() -> Self {
        Self::with(Guest::None).await
    }

    /// With a real envd in every capsule; none, said aloud, when there is no envd.
    pub async fn with_envd() -> Option<Self> {
        Some(Self::with(Guest::Envd(find_envd()?)).await)
    }

    async fn with(guest: Guest) -> Self {
        let database = Database::fresh().await;
        let host = SimHost::start(guest).await;
        let mut settings = host.settings(&database);
        let (address, stop, serving) = serve(&settings).await;
        // For those that come after it.
        settings.insert("WRENN_CP_LISTEN_ADDR".to_owned(), address.clone());
        let base_url = format!("http://{address}");
        let store = database.store();
        let (_, _, key) = service::keys::create(&store, "team", "test").await.expect("a key");
        wait_until("the host is online", RUN_MAX, || async {
            (!store.host_loads().await.expect("a database").is_empty()).then_some(())
        })
        .await;
        Self { host, base_url, key: key.reveal(), settings, stop, serving }
    }

    /// The control plane ends and another begins at the same address.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(RUN_MAX, &mut self.serving).await.expect("ends in time");
        ended.expect("no panic").expect("ends well");
        (_, self.stop, self.serving) = serve(&self.settings).await;
    }

    /// The program, to be started by the caller.
    pub fn program(&self, args: &[&str]) -> tokio::process::Command {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_wrenn"));
        program
            .args(args)
            .env("WRENN_BASE_URL", &self.base_url)
            .env("WRENN_API_KEY", &self.key)
            .current_dir("/")
            .kill_on_drop(true);
        program
    }

    /// Starts the program and reads what it prints meanwhile.
    pub fn follow(&self, args: &[&str]) -> Following {
        let mut program = self.program(args).stdout(Stdio::piped()).spawn().expect("starts");
        let out = program.stdout.take().expect("piped");
        Following { _program: program, lines: BufReader::new(out).lines() }
    }

    /// Runs the program to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let program = self.program(args).output();
        let Output { status, stdout, stderr } =
            tokio::time::timeout(RUN_MAX, program).await.expect("ends in time").expect("starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").trim_end().to_owned();
        Ran { code: status.code().expect("no signal"), out: text(stdout), err: text(stderr) }
    }

    /// Runs it and expects success; what it printed.
    pub async fn done(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    /// Runs it with --json and expects success; what it printed, parsed.
    pub async fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        serde_json::from_str(&self.done(&all).await).expect("JSON")
    }

    /// Runs it and expects that it fails; what it said.
    pub async fn refused(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        ran.err
    }
}

impl Following {
    /// Creates capsules until the first event of this kind arrives; ids of the event and of its capsule.
    pub async fn until(&mut self, world: &mut World, kind: &str) -> (String, String) {
        for _ in 0..20 {
            world.done(&["capsule", "create"]).await;
            if let Ok(found) = tokio::time::timeout(Duration::from_secs(2), self.next(kind)).await {
                return found;
            }
        }
        panic!("no {kind} was printed");
    }

    /// The next event of this kind; ids of the event and of its capsule.
    pub async fn next(&mut self, kind: &str) -> (String, String) {
        let find = async {
            while let Some(line) = self.lines.next_line().await.expect("UTF-8") {
                let event: Value = serde_json::from_str(&line).expect("JSON");
                if event["event"] == kind {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    return (text(&event["id"]), text(&event["resource"]["id"]));
                }
            }
            panic!("it ended")
        };
        tokio::time::timeout(RUN_MAX, find).await.expect("an event in time")
    }
}

async fn serve(settings: &BTreeMap<String, String>) -> (String, CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let config = Config::parse(settings).expect("settings");
    let server = Server::builder().config(config).bind().await.expect("binds");
    let (address, stop) = (server.local_addr().expect("bound").to_string(), server.stop_token());
    (address, stop, tokio::spawn(server.serve()))
}
