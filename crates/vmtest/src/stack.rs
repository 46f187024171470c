//! One running Wrenn, made with `wrenn dev up` in a directory of its own, and the commands a user gives it.

use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::leaks::DIR_PREFIX;

/// Between two checks of a condition.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// A stack; [`Stack::down`] stops it.
pub struct Stack {
    dir: tempfile::TempDir,
    builds: PathBuf,
    listen: String,
    agent_listen: String,
    env: Vec<(String, String)>,
    /// What the services get beside what `wrenn dev` gives them.
    settings: Vec<(String, String)>,
    before: crate::HostState,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Answer {
    /// Standard output as text without the last line break.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }

    /// Fails unless the exit code is 0.
    pub fn ok(self) -> anyhow::Result<Self> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(self)
    }
}

impl Stack {
    /// Why no stack can be made here, if so: the tests then say that they were skipped.
    pub fn missing(builds: &Path) -> Option<String> {
        let needed = ["wrenn", "wrenn-cp", "wrenn-agent", "guest/images/minimal/rootfs.ext4"];
        needed.iter().find(|p| !builds.join(p).exists()).map(|p| format!("{p} is not in {}", builds.display()))
    }

    /// Starts one on free ports.
    pub fn up(builds: &Path) -> anyhow::Result<Self> {
        Self::up_with(builds, &[])
    }

    /// The same with settings of its own for the services.
    pub fn up_with(builds: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let free = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        let dir = tempfile::Builder::new().prefix(DIR_PREFIX).tempdir()?;
        // The database's own user must get through.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut stack = Self {
            dir,
            builds: builds.to_owned(),
            listen: free()?,
            agent_listen: free()?,
            env: Vec::new(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            before: crate::HostState::now(),
        };
        stack.start()?;
        Ok(stack)
    }

    /// `wrenn dev up` after [`Stack::stop`]: ports and key stay the same.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.dev("up")
    }

    fn start(&mut self) -> anyhow::Result<()> {
        self.dev("up")?;
        self.env = pairs(&self.dir.path().join("dev/env"))?;
        Ok(())
    }

    /// `wrenn dev down`.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.dev("down")
    }

    /// Stops it for good.
    pub fn down(self) -> anyhow::Result<()> {
        self.stop()
    }

    fn dev(&self, verb: &str) -> anyhow::Result<()> {
        let dir = self.dir.path().join("dev");
        let output = Command::new(self.builds.join("wrenn"))
            .args(["dev", verb, "--listen", &self.listen, "--agent-listen", &self.agent_listen])
            .arg("--dir")
            .arg(&dir)
            .envs(self.settings.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .output()?;
        if !output.status.success() {
            let mut logs = String::new();
            for name in ["dev", "agent", "control", "postgres"] {
                let log = std::fs::read_to_string(dir.join(format!("log/{name}.log"))).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                logs.push_str(&format!("--- {name}\n{}\n", tail.into_iter().rev().collect::<Vec<_>>().join("\n")));
            }
            bail!("dev {verb}: {}\n{logs}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Where the programs are.
    pub fn builds(&self) -> &Path {
        &self.builds
    }

    /// Base URL of its host's agent.
    pub fn agent_url(&self) -> String {
        format!("http://{}", self.agent_listen)
    }

    /// What its host's agent wants to see of a caller.
    pub fn host_token(&self) -> anyhow::Result<String> {
        let secrets = pairs(&self.dir().join("secrets"))?;
        secrets
            .into_iter()
            .find(|(name, _)| name == "WRENN_HOST_TOKEN")
            .map(|(_, value)| value)
            .context("no host token")
    }

    /// A value of its `env` file.
    pub fn value(&self, key: &str) -> anyhow::Result<String> {
        let found = self.env.iter().find(|(k, _)| k == key);
        found.map(|(_, v)| v.clone()).with_context(|| format!("no {key} in the env file"))
    }

    /// What the machine held before the stack was started.
    pub fn before(&self) -> &crate::HostState {
        &self.before
    }

    /// Directory of the instance.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("dev")
    }

    /// The file system that holds the agent's images and sandboxes.
    pub fn store(&self) -> PathBuf {
        let own = self.dir().join("wrenn/store");
        if own.is_dir() { own } else { self.dir().join("wrenn") }
    }

    /// Waits until the agent has the memory of the template it prepares ahead of time: creates are restores from then on.
    pub fn wait_prepared(&self) -> anyhow::Result<()> {
        wait_until("the template's memory is made", Duration::from_secs(120), || {
            let made = std::fs::read_dir(self.store().join("templates"))?.flatten();
            Ok(made.map(|e| e.file_name()).any(|name| name.to_string_lossy().ends_with("-1c-512m")))
        })
    }

    /// A directory for the test's own files.
    pub fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join("scratch").join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// `wrenn ARGS...` with nothing on standard input.
    pub fn wrenn<A: AsRef<OsStr>>(&self, args: &[A]) -> anyhow::Result<Answer> {
        self.wrenn_with(args, b"", &[])
    }

    /// `wrenn ARGS...` with standard input and extra environment.
    pub fn wrenn_with<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        stdin: &[u8],
        env: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let mut child = Command::new(self.builds.join("wrenn"))
            .args(args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .envs(env.iter().copied())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut pipe = child.stdin.take().context("no stdin")?;
        let input = stdin.to_owned();
        // A command that ends without reading all of it is not our failure.
        let feeder = std::thread::spawn(move || drop(pipe.write_all(&input)));
        let output = child.wait_with_output()?;
        feeder.join().map_err(|_| anyhow::anyhow!("the feeder died"))?;
        Ok(Answer {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A running capsule of the minimal template.
    pub fn capsule(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["capsule", "create"];
        all.extend_from_slice(args);
        Ok(self.wrenn(&all)?.ok()?.text())
    }

    /// A command in a capsule that must succeed; its standard output.
    pub fn exec(&self, id: &str, command: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["exec", id, "--"];
        all.extend_from_slice(command);
        Ok(self.wrenn(&all)?.ok()?.text())
    }

    /// Deletes a capsule and waits until it is gone.
    pub fn remove(&self, id: &str) -> anyhow::Result<()> {
        self.wrenn(&["capsule", "rm", "--wait", id])?.ok().map(drop)
    }

    /// Status of a capsule.
    pub fn status(&self, id: &str) -> anyhow::Result<String> {
        let capsule = self.wrenn(&["--json", "capsule", "get", id])?.ok()?.json()?;
        Ok(capsule["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Process id of a service of this instance.
    pub fn service_pid(&self, name: &str) -> anyhow::Result<i32> {
        let record = self.dir().join("run").join(format!("{name}.pid"));
        let text = std::fs::read_to_string(&record).with_context(|| record.display().to_string())?;
        text.split_whitespace().next().and_then(|pid| pid.parse().ok()).context("no pid in the record")
    }

    /// `kill -9` of a service; the supervisor starts it again. Returns when a new one is there.
    pub fn kill_service(&self, name: &str) -> anyhow::Result<()> {
        self.restart_service(name, "-9")
    }

    /// The same, but the service is asked to end and may tidy up.
    pub fn end_service(&self, name: &str) -> anyhow::Result<()> {
        self.restart_service(name, "-TERM")
    }

    fn restart_service(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        let old = self.service_pid(name)?;
        let killed = Command::new("kill").args([signal, &old.to_string()]).status()?;
        ensure!(killed.success(), "kill of {name} failed");
        wait_until(&format!("{name} is started again"), Duration::from_secs(30), || {
            Ok(self.service_pid(name).is_ok_and(|pid| pid != old))
        })
    }
}

/// Names and values of a file of settings.
fn pairs(file: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let pair = |line: &str| {
        let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        Some((key.to_owned(), value.trim_matches('\'').to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// Waits for a condition; an error of the condition itself counts as "not yet".
pub fn wait_until(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + bound;
    loop {
        let last = condition();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {what} (last: {last:?})", bound.as_secs());
        }
        std::thread::sleep(CHECK_EVERY);
    }
}
