//! A private PostgreSQL: own data directory, one unix socket, no TCP port. Runs as `postgres` when we are root.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use nix::unistd::User;
use tokio::process::Command;

use super::child::Spec;
use super::layout::{Layout, postgres_user};

/// Database and superuser of the instance.
const NAME: &str = "wrenn";
/// A first start writes about 40 MB.
const INIT_WAIT: Duration = Duration::from_secs(120);
/// Recovery after a power loss may take a while.
const READY_WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the control plane finds it.
pub fn url(layout: &Layout) -> String {
    format!("postgres://{NAME}@localhost/{NAME}?host={}", socket_dir(layout).display())
}

/// Makes the data directory when there is none; returns how to start the server.
///
/// # Errors
/// The programs are missing, or the directory cannot be made.
pub async fn prepare(layout: &Layout) -> anyhow::Result<Spec> {
    let user = postgres_user()?;
    let programs = programs(&layout.postgres)?;
    own_dir(&socket_dir(layout), user.as_ref())?;
    if !layout.postgres.join("PG_VERSION").exists() {
        init(layout, &programs, user.as_ref()).await?;
    }
    // Left by a server that was killed; a live one holds shared memory and is refused by PostgreSQL itself.
    let data = layout.postgres.display().to_string();
    let sockets = socket_dir(layout).display().to_string();
    let setting = |text: String| ["-c".to_owned(), text];
    let args = ["-D".to_owned(), data]
        .into_iter()
        .chain(setting("listen_addresses=".into()))
        .chain(setting(format!("unix_socket_directories={sockets}")))
        .chain(setting("unix_socket_permissions=0700".into()))
        .chain(setting("max_connections=200".into()))
        .collect();
    Ok(Spec {
        name: "postgres",
        program: programs.join("postgres"),
        args,
        env: Vec::new(),
        user,
        // "Fast": ends sessions, writes a checkpoint.
        stop_signal: Signal::SIGINT,
        stop_wait: Duration::from_secs(30),
    })
}

/// Waits until the server answers and makes the database when there is none.
///
/// # Errors
/// The server does not answer in time.
pub async fn ready(layout: &Layout) -> anyhow::Result<()> {
    let programs = programs(&layout.postgres)?;
    let deadline = tokio::time::Instant::now() + READY_WAIT;
    loop {
        let found = query(layout, &programs, "select 1 from pg_database where datname = 'wrenn'").await;
        match found {
            Ok(rows) if rows.trim() == "1" => return Ok(()),
            Ok(_) => {
                query(layout, &programs, "create database wrenn").await?;
            }
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error.context("the database did not start; see its log in the log directory"));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn query(layout: &Layout, programs: &Path, sql: &str) -> anyhow::Result<String> {
    let psql = programs.join("psql");
    let mut command = Command::new(&psql);
    command.args(["-X", "-q", "-t", "-A", "-U", NAME, "-d", "postgres", "-c", sql]).arg("-h").arg(socket_dir(layout));
    if let Some(user) = postgres_user()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    output(command, READY_WAIT).await
}

async fn init(layout: &Layout, programs: &Path, user: Option<&User>) -> anyhow::Result<()> {
    // Made under another name first, so that a kill in the middle leaves no half-made database behind.
    let fresh = layout.postgres.with_extension("new");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    own_dir(&fresh, user)?;
    let mut command = Command::new(programs.join("initdb"));
    command.arg("-D").arg(&fresh).args([
        "-U",
        NAME,
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-instructions",
    ]);
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    output(command, INIT_WAIT).await.context("could not make the database")?;
    std::fs::rename(&fresh, &layout.postgres).context("could not put the new database in its place")
}

async fn output(mut command: Command, wait: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).current_dir("/").kill_on_drop(true);
    let ended = tokio::time::timeout(wait, command.output()).await;
    let printed = ended.with_context(|| format!("no end within {} s", wait.as_secs()))?.context("cannot start it")?;
    if !printed.status.success() {
        bail!("{}: {}", printed.status, String::from_utf8_lossy(&printed.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&printed.stdout).into_owned())
}

/// The programs that fit the data directory, else the newest installed.
fn programs(data: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::fs::read_to_string(data.join("PG_VERSION")).ok().map(|v| v.trim().to_owned());
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse::<u32>().ok()?;
            let bin = entry.path().join("bin");
            (bin.join("postgres").is_file() && wanted.as_ref().is_none_or(|w| *w == version.to_string()))
                .then_some((version, bin))
        })
        .max();
    match (newest, wanted) {
        (Some((_, bin)), _) => Ok(bin),
        (None, Some(version)) => bail!(
            "the data in {} needs PostgreSQL {version}: install postgresql-{version}, or remove that directory to begin anew",
            data.display()
        ),
        (None, None) => bail!("PostgreSQL is not installed: run `make setup`"),
    }
}

fn socket_dir(layout: &Layout) -> PathBuf {
    layout.run.join("postgres")
}

fn own_dir(dir: &Path, user: Option<&User>) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let made = (|| {
        std::fs::create_dir_all(dir)?;
        if let Some(user) = user {
            std::os::unix::fs::chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
    })();
    made.with_context(|| format!("cannot prepare {}", dir.display()))
}
