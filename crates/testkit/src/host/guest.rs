//! A real envd process that stands for a guest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
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
    child: Child,
    home: Home,
}

impl Drop for GuestProcess {
    /// A VM takes its processes along; here they are found by where they are.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let inside = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(self.home.path()))
        };
        let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let left: Vec<String> = numbers
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(inside)
            .map(|pid| pid.to_string())
            .collect();
        if !left.is_empty() {
            let _ = std::process::Command::new("kill").arg("-KILL").args(left).stderr(Stdio::null()).status();
        }
    }
}

/// What stands for a guest's disk. Outlives the process for as long as somebody holds it.
pub(super) type Home = Arc<tempfile::TempDir>;

/// A fresh disk, or a copy of another one as it is now.
pub(super) fn make_home(copy_of: Option<&Path>) -> anyhow::Result<Home> {
    let home = tempfile::Builder::new().prefix("wrenn-guest-").tempdir().context("a home for the guest")?;
    if let Some(source) = copy_of {
        // Sockets and the like belong to the process, not to the disk.
        let copied = std::process::Command::new("cp")
            .args(["-a", "--"])
            .arg(source.join("."))
            .arg(home.path())
            .status()
            .context("copy a guest's home")?;
        if !copied.success() {
            bail!("copying a guest's home ended with {copied}");
        }
        let _ = std::fs::remove_dir_all(home.path().join("run"));
    }
    Ok(Arc::new(home))
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
    pub(super) async fn start(program: &Path, home: Home) -> anyhow::Result<Self> {
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
        let guest = Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), token, child, home };
        guest.wait_ready().await?;
        guest.init().await?;
        Ok(guest)
    }

    /// Stops every instruction of the process (`false`) or lets it go on (`true`): it keeps its memory meanwhile.
    pub(super) fn run(&self, on: bool) {
        let Some(pid) = self.child.id() else { return };
        let signal = if on { "-CONT" } else { "-STOP" };
        let sent = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
        if !sent.as_ref().is_ok_and(std::process::ExitStatus::success) {
            tracing::warn!(pid, signal, ?sent, "cannot signal a simulated guest");
        }
    }

    /// Its disk.
    pub(super) fn home(&self) -> Home {
        self.home.clone()
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
            default_workdir: Some(self.home.path().display().to_string()),
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
