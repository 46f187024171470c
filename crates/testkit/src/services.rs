//! One private PostgreSQL and one private Redis for all test processes of a run.
//!
//! The first process that needs them starts a supervisor (`supervise.sh`); every process holds a shared file lock while it lives,
//! however it ends; when nobody has held it for the linger time the supervisor stops both and removes their
//! directory. So this works for `cargo test` (one process per binary) and for nextest (one per test) alike, and a
//! kill -9 of a test leaves nothing behind.
//!
//! A runner that wants one cluster for its whole run holds what [`join_or_start`] gives and ends with [`stop_and_wait`]; the program
//! `with-services` does this around any command.

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const SCRIPT: &str = include_str!("supervise.sh");
/// Seconds the services outlive their last user, so that the next test of a run finds them.
const LINGER_SECS: u32 = 3;
const START_MAX: Duration = Duration::from_secs(60);

/// Running services, kept running while this lives.
#[derive(Debug)]
pub struct Services {
    dir: PathBuf,
    _user: File,
}

impl Services {
    /// Directory of PostgreSQL's socket.
    pub fn postgres_socket_dir(&self) -> &Path {
        &self.dir
    }

    /// PostgreSQL's socket.
    pub fn postgres_socket(&self) -> PathBuf {
        self.dir.join(".s.PGSQL.5432")
    }

    /// `DATABASE_URL` of one database.
    pub fn database_url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user=postgres", self.dir.display())
    }

    /// `REDIS_URL`.
    pub fn redis_url(&self) -> String {
        format!("redis+unix://{}", self.dir.join("redis.sock").display())
    }
}

/// The services of this process, started or joined on first use. Panics with the reason when that fails: a test
/// without its database proves nothing.
pub fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    SHARED.get_or_init(|| join_or_start().unwrap_or_else(|error| panic!("test services: {error:#}")))
}

/// For runners, at their end: waits until the services of this checkout are gone.
pub fn stop_and_wait(services: Services) -> anyhow::Result<()> {
    let dir = services.dir.clone();
    drop(services);
    let deadline = Instant::now() + START_MAX;
    while dir.exists() {
        if Instant::now() > deadline {
            bail!("{} is still there", dir.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Joins running services of this checkout or starts them.
pub fn join_or_start() -> anyhow::Result<Services> {
    let root = root()?;
    let gate = File::create(root.join("lock")).context("lock file")?;
    gate.lock().context("lock")?;
    if let Some(services) = join(&root) {
        return Ok(services);
    }
    sweep(&root);
    let services = start(&root)?;
    fs::write(root.join("current"), services.dir.to_string_lossy().as_bytes()).context("note the directory")?;
    Ok(services)
}

fn root() -> anyhow::Result<PathBuf> {
    let uid = fs::metadata("/proc/self").context("own user id")?.uid();
    let mut hasher = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
    let root = std::env::temp_dir().join(format!("wrenn-testkit-{uid}-{:08x}", hasher.finish() as u32));
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    Ok(root)
}

fn join(root: &Path) -> Option<Services> {
    let dir = PathBuf::from(fs::read_to_string(root.join("current")).ok()?);
    if !is_supervised(&dir) || !dir.join("ready").exists() {
        return None;
    }
    let user = File::open(dir.join("users")).ok()?;
    user.try_lock_shared().ok()?;
    // The supervisor may have let go of everything between the two looks.
    is_supervised(&dir).then_some(Services { dir, _user: user })
}

fn is_supervised(dir: &Path) -> bool {
    File::open(dir.join("alive")).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Removes what supervisors left that were killed themselves.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !dir.is_dir() || is_supervised(&dir) {
            continue;
        }
        let pid = fs::read_to_string(dir.join("pg/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next().filter(|pid| is_ours(pid, &dir)) {
            let _ = Command::new("kill").args(["-QUIT", pid]).status();
        }
        let _ = fs::remove_dir_all(&dir);
    }
}

fn is_ours(pid: &str, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

fn start(root: &Path) -> anyhow::Result<Services> {
    let dir = root.join(format!("{}-{:08x}", std::process::id(), rand_u32()));
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let user = File::create(dir.join("users"))?;
    user.lock_shared()?;
    let log = File::create(dir.join("log"))?;
    let mut child = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "supervise"])
        .arg(&dir)
        .arg(postgres_bin()?)
        .arg(LINGER_SECS.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the supervisor")?;
    let deadline = Instant::now() + START_MAX;
    while !dir.join("ready").exists() {
        let ended = child.try_wait()?.is_some();
        if ended || dir.join("failed").exists() || Instant::now() > deadline {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            bail!("PostgreSQL or Redis did not start; its log:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Somebody must reap it if it ends before us; usually we end first.
    std::thread::spawn(move || child.wait());
    Ok(Services { dir, _user: user })
}

/// Newest PostgreSQL of the distribution.
fn postgres_bin() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("initdb").exists().then_some((version, bin))
        })
        .collect();
    found.sort();
    let newest = found.pop().context("no PostgreSQL found: install the package postgresql")?;
    Ok(newest.1)
}

pub(crate) fn rand_u32() -> u32 {
    getrandom::u32().expect("the kernel gives random numbers")
}
