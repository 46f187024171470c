//! One service process: started with its log file, watched, stopped with a bound. A record of each running one lets the
//! next start end what a killed supervisor left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tokio::process::{Child, Command};

use super::layout::Layout;

/// Bytes after which a log file is set aside at the next start; one old file is kept.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Between two looks at a process that should end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How to start a service.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Short name: log prefix, log file, record.
    pub name: &'static str,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Account to run as; the caller's when absent.
    pub user: Option<User>,
    pub stop_signal: Signal,
    /// How long it may take to end before it is killed.
    pub stop_wait: Duration,
}

/// A running service.
pub struct Service {
    spec: Spec,
    child: Child,
    record: PathBuf,
}

impl Spec {
    /// Starts it, its output appended to its log file, in a process group of its own so that the terminal's Ctrl-C
    /// reaches the supervisor alone.
    ///
    /// # Errors
    /// The program or its files cannot be had.
    pub fn start(&self, layout: &Layout) -> anyhow::Result<Service> {
        let log = open_log(layout, self.name)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            // What goes to a file is for programs too: no colour codes.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            .process_group(0)
            .current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let child =
            command.spawn().with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        let record = layout.run.join(format!("{}.pid", self.name));
        if let Some(line) = child.id().and_then(identity) {
            std::fs::write(&record, line).with_context(|| format!("cannot write {}", record.display()))?;
        }
        Ok(Service { spec: self.clone(), child, record })
    }
}

impl Service {
    /// Short name.
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// How it was started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Waits until it ends by itself; the text says how.
    pub async fn ended(&mut self) -> String {
        let how = self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        let _ = std::fs::remove_file(&self.record);
        how
    }

    /// Asks it to end, then kills it when it does not.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), self.spec.stop_signal);
            if tokio::time::timeout(self.spec.stop_wait, self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
        }
        let _ = std::fs::remove_file(&self.record);
    }
}

/// Ends services that a killed supervisor left running, by their records. A record whose process is another one by now
/// (the start time differs) is only removed.
///
/// # Errors
/// The record cannot be read or removed, or the process does not end.
pub async fn end_leftovers(layout: &Layout, name: &str, signal: Signal, wait: Duration) -> anyhow::Result<bool> {
    let record = layout.run.join(format!("{name}.pid"));
    let Ok(line) = std::fs::read_to_string(&record) else { return Ok(false) };
    let alive = || {
        let pid = line.split_whitespace().next()?.parse::<u32>().ok()?;
        (identity(pid)? == line).then_some(Pid::from_raw(pid.cast_signed()))
    };
    let found = alive().is_some();
    let deadline = tokio::time::Instant::now() + wait;
    let mut with = signal;
    while let Some(pid) = alive() {
        let _ = kill(pid, with);
        tokio::time::sleep(LOOK_EVERY).await;
        if tokio::time::Instant::now() >= deadline {
            with = Signal::SIGKILL;
        }
    }
    std::fs::remove_file(&record).with_context(|| format!("cannot remove {}", record.display()))?;
    Ok(found)
}

/// Process id and start time: together they name one process for as long as the machine runs. A zombie counts as ended.
fn identity(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold blanks and parentheses; fields are counted after its last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let start_time = fields.nth(18)?;
    Some(format!("{pid} {start_time}"))
}

fn open_log(layout: &Layout, name: &str) -> anyhow::Result<File> {
    let path = log_path(&layout.log, name);
    if path.metadata().is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        let _ = std::fs::rename(&path, path.with_extension("log.old"));
    }
    File::options().append(true).create(true).open(&path).with_context(|| format!("cannot write {}", path.display()))
}

/// The log file of a service.
pub fn log_path(log: &Path, name: &str) -> PathBuf {
    log.join(format!("{name}.log"))
}
