//! `wrenn port-forward` and `wrenn url`, against a real control plane and a simulated host.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use wrenn_control::{Config, Server, service};
use wrenn_testkit::host::{Guest, TOKEN};
use wrenn_testkit::{Database, SimHost};

const SOON: Duration = Duration::from_secs(30);

struct World {
    base: String,
    key: String,
    dir: tempfile::TempDir,
    _database: Database,
    _host: SimHost,
}

impl World {
    async fn start() -> Self {
        let (database, host) = (Database::fresh().await, SimHost::start(Guest::None).await);
        let dir = tempfile::tempdir().expect("a directory");
        let settings = [
            ("DATABASE_URL", database.url.clone()),
            ("REDIS_URL", database.redis_url.clone()),
            ("WRENN_REDIS_PREFIX", database.redis_prefix.clone()),
            ("WRENN_CP_LISTEN_ADDR", "127.0.0.1:0".to_owned()),
            ("CP_HOST_AGENT_ADDR", host.url()),
            ("WRENN_HOST_TOKEN", TOKEN.to_owned()),
            ("WRENN_DIR", dir.path().display().to_string()),
        ];
        let config = Config::parse(&settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()).expect("valid");
        let server = Server::builder().config(config).bind().await.expect("binds");
        let base = format!("http://{}", server.local_addr().expect("bound"));
        tokio::spawn(server.serve());
        let (_, _, key) = service::keys::create(&database.store(), "team", "test").await.expect("a key");
        Self { base, key: key.reveal(), dir, _database: database, _host: host }
    }

    fn wrenn(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wrenn"));
        command
            .args(args)
            .env_clear()
            .env("WRENN_BASE_URL", &self.base)
            .env("WRENN_API_KEY", &self.key)
            .env("WRENN_CONTEXTS", self.dir.path().join("contexts.json"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Output of a command that must succeed.
    async fn run(&self, args: &[&str]) -> String {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let out = tokio::time::timeout(SOON, self.wrenn(args).output()).await.expect("in time").expect("starts");
            if out.status.success() {
                return String::from_utf8(out.stdout).expect("text");
            }
            // Until the first word of the host there is no template.
            let why = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(why.contains("yet") && tokio::time::Instant::now() < deadline, "{args:?}: {why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_port_carries_many_connections_and_each_end_for_itself() {
    let world = World::start().await;
    let id = world.run(&["capsule", "create", "--auto-resume"]).await.trim().to_owned();
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let remote = server.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.write_all(b"bye").await;
            });
        }
    });
    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let (one, two) = (format!("0:{remote}"), format!("0:{unused}"));
    let mut forward = world.wrenn(&["--json", "port-forward", &id, &one, &two]).spawn().expect("starts");
    let mut lines = BufReader::new(forward.stdout.take().expect("piped")).lines();
    let mut said = String::new();
    while !said.ends_with("\n]") {
        let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("in time").expect("text");
        said = format!("{said}\n{}", line.expect("it goes on"));
    }
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said[0]["remote"], json!(remote));
    let at = |n: usize| said[n]["listen"].as_str().expect("an address").to_owned();

    let talk = |n: u8| {
        let at = at(0);
        async move {
            let stream = TcpStream::connect(at).await.expect("connects");
            let (mut from, mut to) = stream.into_split();
            let feeding = tokio::spawn(async move {
                to.write_all(&vec![n; 500_000]).await.expect("sends");
                to.shutdown().await.expect("ends");
                to
            });
            let mut got = Vec::new();
            tokio::time::timeout(SOON, from.read_to_end(&mut got)).await.expect("in time").expect("reads");
            drop(feeding.await.expect("fed"));
            let last = got.split_off(got.len().saturating_sub(3));
            assert!(got.len() == 500_000 && got.iter().all(|byte| *byte == n) && last == b"bye", "{}", got.len());
        }
    };
    futures::future::join_all((0..20).map(talk)).await;

    let mut refused = TcpStream::connect(at(1)).await.expect("connects");
    let ended = tokio::time::timeout(SOON, refused.read_u8()).await.expect("in time");
    assert_eq!(ended.expect_err("nothing there").kind(), std::io::ErrorKind::ConnectionReset);

    let pid = nix::unistd::Pid::from_raw(forward.id().expect("runs").try_into().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    let status = tokio::time::timeout(SOON, forward.wait()).await.expect("in time").expect("ends");
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn addresses_are_printed_and_what_is_not_there_is_said_at_once() {
    let world = World::start().await;
    let id = "cl-0000000000000000000000000";
    let port = world.base.rsplit(':').next().expect("a port");
    assert_eq!(world.run(&["url", id, "80"]).await, format!("http://80-{id}.localhost:{port}\n"));
    assert_eq!(world.run(&["url", id, "80", "--proxy-domain", "x.test"]).await, format!("http://80-{id}.x.test\n"));
    let out = world.wrenn(&["port-forward", id, "0:80"]).output().await.expect("starts");
    let why = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && why.contains("no capsule"), "{why}");
}
