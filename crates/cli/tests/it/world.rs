//! A control plane in this process, and the program run against it.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use wrenn_control::{Config, Server, service};
use wrenn_testkit::host::{Guest, TOKEN, find_envd};
use wrenn_testkit::{Database, SimHost, wait_until};

/// Bound of every run of the program.
const RUN_MAX: Duration = Duration::from_secs(60);

pub struct World {
    pub host: SimHost,
    pub base_url: String,
    pub key: String,
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
        let values = [
            ("DATABASE_URL", database.url.clone()),
            ("REDIS_URL", database.redis_url.clone()),
            ("WRENN_REDIS_PREFIX", database.redis_prefix.clone()),
            ("WRENN_CP_LISTEN_ADDR", "127.0.0.1:0".to_owned()),
            ("CP_HOST_AGENT_ADDR", host.url()),
            ("WRENN_HOST_TOKEN", TOKEN.to_owned()),
        ];
        let config = Config::parse(&values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()).expect("settings");
        let server = Server::builder().config(config).bind().await.expect("binds");
        let base_url = format!("http://{}", server.local_addr().expect("bound"));
        tokio::spawn(server.serve());
        let store = database.store();
        let (_, _, key) = service::keys::create(&store, "team", "test").await.expect("a key");
        wait_until("the host is online", RUN_MAX, || async {
            (!store.host_loads().await.expect("a database").is_empty()).then_some(())
        })
        .await;
        Self { host, base_url, key: key.reveal() }
    }

    /// Runs the program to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let program = tokio::process::Command::new(env!("CARGO_BIN_EXE_wrenn"))
            .args(args)
            .env("WRENN_BASE_URL", &self.base_url)
            .env("WRENN_API_KEY", &self.key)
            .current_dir("/")
            .kill_on_drop(true)
            .output();
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
