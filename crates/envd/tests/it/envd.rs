//! A real envd per test: the built binary on a port of its own, with clients for everything it serves.
//!
//! Owns the process, its directory and its cgroup; all three are gone when the value is dropped.
//! Must never: touch the machine it runs on (`--no-system` always) or share an envd between tests.
#![allow(dead_code)] // Each room of tests uses its part.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use connectrpc::client::{ClientConfig, HttpClient};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use wrenn_contract::guest::{INIT, Init, TOKEN_HEADER};
use wrenn_contract::proto::filesystem::FilesystemClient;
use wrenn_contract::proto::process::ProcessClient;

/// Time anything that must happen gets: generous, because a busy machine is no failure.
pub const SOON: Duration = Duration::from_secs(30);
/// The token every test's envd is given.
pub const TOKEN: &str = "the-token-of-this-test";

static STARTED: AtomicU32 = AtomicU32::new(0);

/// How to start one.
#[derive(Debug, Default)]
pub struct Wish {
    /// Sent as the first `/init`; its token is always [`TOKEN`].
    pub init: Init,
    /// Further command line arguments.
    pub args: Vec<String>,
    /// Give no cgroup even where the machine has them.
    pub without_cgroup: bool,
}

/// A running envd.
pub struct Envd {
    pub addr: SocketAddr,
    /// A directory of its own, for whatever the test writes.
    pub home: tempfile::TempDir,
    /// The cgroup v2 directory it was given; none where this machine lets us make none.
    pub cgroup: Option<PathBuf>,
    child: Child,
    http: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

/// An answer of a plain route.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

impl Envd {
    /// One that knows its token; processes run as root in its home.
    pub async fn start() -> Self {
        Self::start_with(Wish::default()).await
    }

    /// One as wished, initialised.
    pub async fn start_with(wish: Wish) -> Self {
        let init = Init { access_token: Some(TOKEN.to_owned()), ..wish.init.clone() };
        let envd = Self::start_uninitialised(wish);
        let body = serde_json::to_vec(&init).expect("JSON");
        let answer = envd.call(Method::POST, INIT, &[], body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        envd
    }

    /// One nobody has sent an `/init`.
    pub fn start_uninitialised(wish: Wish) -> Self {
        let home = tempfile::Builder::new().prefix("wrenn-envd-").tempdir().expect("a directory");
        let cgroup = if wish.without_cgroup { None } else { make_cgroup() };
        // Without one, a directory that is no cgroup: envd must notice and go on.
        let cgroup_root = cgroup.clone().unwrap_or_else(|| home.path().to_owned());
        // setpriv: the kernel ends envd when this thread dies, however it dies.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_envd")])
            .args(["--no-system", "--listen", "127.0.0.1:0"])
            .arg("--run-dir")
            .arg(home.path().join("run"))
            .arg("--cgroup-root")
            .arg(cgroup_root)
            .args(wish.args)
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("envd starts");
        let addr = read_log(&mut child);
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { addr, home, cgroup, child, http }
    }

    /// envd's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status`, in the unit the kernel prints (KiB for memory).
    pub fn status_number(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("envd runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a known line");
        line.split_whitespace().next().expect("a number").parse().expect("a number")
    }

    /// A client of the process service that presents the token.
    pub fn processes(&self) -> ProcessClient<HttpClient> {
        self.processes_with(&[])
    }

    /// A client of the process service that presents the token and sends `headers` with every call.
    pub fn processes_with(&self, headers: &[(&str, &str)]) -> ProcessClient<HttpClient> {
        ProcessClient::new(HttpClient::plaintext(), self.config(Some(TOKEN), headers))
    }

    /// A client of the process service with another token, or none.
    pub fn processes_as(&self, token: Option<&str>) -> ProcessClient<HttpClient> {
        ProcessClient::new(HttpClient::plaintext(), self.config(token, &[]))
    }

    /// A client of the file system service that presents the token.
    pub fn filesystem(&self) -> FilesystemClient<HttpClient> {
        FilesystemClient::new(HttpClient::plaintext(), self.config(Some(TOKEN), &[]))
    }

    /// A client of the file system service with another token, or none.
    pub fn filesystem_as(&self, token: Option<&str>) -> FilesystemClient<HttpClient> {
        FilesystemClient::new(HttpClient::plaintext(), self.config(token, &[]))
    }

    fn config(&self, token: Option<&str>, headers: &[(&str, &str)]) -> ClientConfig {
        let uri = format!("http://{}", self.addr).parse().expect("a URL");
        let mut config = ClientConfig::new(uri);
        if let Some(token) = token {
            config = config.with_default_header(TOKEN_HEADER, token);
        }
        headers.iter().fold(config, |config, (name, value)| config.with_default_header(*name, *value))
    }

    /// A call of a plain route with the token.
    pub async fn call(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let headers: Vec<_> = std::iter::once((TOKEN_HEADER, TOKEN)).chain(headers.iter().copied()).collect();
        self.call_bare(method, path_and_query, &headers, body).await
    }

    /// A call of a plain route with exactly these headers.
    pub async fn call_bare(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path_and_query}", self.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = tokio::time::timeout(SOON, self.http.request(request)).await.expect("in time").expect("answers");
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(SOON, body.collect()).await.expect("in time").expect("a body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

impl Drop for Envd {
    fn drop(&mut self) {
        // What it started first: nothing else would end those.
        if let Some(cgroup) = &self.cgroup {
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(cgroup) = &self.cgroup {
            remove_cgroup(cgroup);
        }
    }
}

/// Polls until `probe` says yes, within [`SOON`].
pub async fn eventually(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !probe().await {
        assert!(began.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The address from envd's first log line. Goes on reading in a thread, so that envd never waits for its log.
fn read_log(child: &mut Child) -> SocketAddr {
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let show = std::env::var_os("WRENN_TEST_ENVD_LOG").is_some();
    let mut seen = String::new();
    loop {
        let line = lines.next().unwrap_or_else(|| panic!("envd ended before it listened: {seen}")).expect("text");
        if show {
            eprintln!("{line}");
        }
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["fields"]["message"] == "envd listens" {
            let addr = entry["fields"]["address"].as_str().expect("an address").parse().expect("an address");
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    if show {
                        eprintln!("{line}");
                    }
                }
            });
            return addr;
        }
        seen.push_str(&line);
    }
}

/// A cgroup of our own in the machine's version 2 hierarchy.
fn make_cgroup() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })?;
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let own = root.join(format!("wrenn-test-{}-{number}", std::process::id()));
    std::fs::create_dir(&own).ok()?;
    Some(own)
}

/// Killed processes leave a cgroup a moment after the kill.
fn remove_cgroup(dir: &Path) {
    let began = Instant::now();
    loop {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
            remove_cgroup(&entry.path());
        }
        if std::fs::remove_dir(dir).is_ok() || !dir.exists() || began.elapsed() > Duration::from_secs(5) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
