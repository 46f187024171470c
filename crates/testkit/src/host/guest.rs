//! A real envd process that stands for a guest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::process::{Child, Command};
use wrenn_contract::guest::{HEALTH, INIT, Init, TOKEN_HEADER};

/// One running envd. Killed when dropped.
pub(super) struct GuestProcess {
    pub(super) addr: SocketAddr,
    pub(super) token: String,
    _child: Child,
    _home: tempfile::TempDir,
}

/// The envd binary to use: `WRENN_TEST_ENVD`, else the one built beside the running test. None, said aloud, when
/// there is none that serves.
pub fn find_envd() -> Option<PathBuf> {
    let named = std::env::var_os("WRENN_TEST_ENVD").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("envd"));
    let program = named.or_else(beside).filter(|path| path.exists());
    let answers = |path: &PathBuf| {
        std::process::Command::new(path)
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success() && !out.stdout.is_empty())
    };
    let found = program.filter(answers);
    if found.is_none() {
        eprintln!("SKIPPED: no working envd (build it with `cargo build -p wrenn-envd` or set WRENN_TEST_ENVD)");
    }
    found
}

impl GuestProcess {
    pub(super) async fn start(program: &Path) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("wrenn-guest-").tempdir().context("a home for the guest")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // setpriv: the kernel ends envd when this process dies, however it dies.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["--no-system", "--listen", &format!("127.0.0.1:{port}")])
            .arg("--run-dir")
            .arg(home.path().join("run"))
            .env("HOME", home.path())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(if std::env::var_os("WRENN_TEST_ENVD_LOG").is_some() { Stdio::inherit() } else { Stdio::null() })
            .kill_on_drop(true)
            .spawn()
            .context("start envd")?;
        let token = format!("{:08x}{:08x}", crate::services::rand_u32(), crate::services::rand_u32());
        let guest = Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), token, _child: child, _home: home };
        guest.wait_ready().await?;
        guest.init().await?;
        Ok(guest)
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            if self.call("GET", HEALTH, String::new()).await.is_ok_and(|status| status == 200) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("envd did not answer on {}", self.addr);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn init(&self) -> anyhow::Result<()> {
        let init = Init {
            lifecycle_id: Some("sim".to_owned()),
            access_token: Some(self.token.clone()),
            default_user: Some("root".to_owned()),
            default_workdir: Some(self._home.path().display().to_string()),
            ..Init::default()
        };
        let status = self.call("POST", INIT, serde_json::to_string(&init)?).await?;
        if status != 200 {
            bail!("envd answered /init with {status}");
        }
        Ok(())
    }

    async fn call(&self, method: &str, path: &str, body: String) -> anyhow::Result<u16> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .header("content-type", "application/json")
            .header(TOKEN_HEADER, &self.token)
            .body(Full::new(Bytes::from(body)))?;
        Ok(client.request(request).await?.status().as_u16())
    }
}
