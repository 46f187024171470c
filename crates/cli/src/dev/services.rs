//! The two programs of Wrenn itself as the supervisor runs them: their settings, secrets, guest images and first key.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::child::Spec;
use super::layout::{Layout, program};
use super::{env_file, postgres, redis};
use wrenn_contract::rest::auth::Login;

use crate::api::{Client, Connection};
use crate::output::Output;

/// The instance's platform admin.
const ADMIN_EMAIL: &str = "admin@wrenn.local";
/// Removing running capsules on the way out.
const PURGE_WAIT: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the two programs listen.
#[derive(Debug, Clone)]
pub struct Addresses {
    control: SocketAddr,
    agent: SocketAddr,
}

impl Addresses {
    /// `host:port`, or `:port` for every address.
    ///
    /// # Errors
    /// One of the addresses is malformed.
    pub fn parse(control: &str, agent: &str) -> anyhow::Result<Self> {
        Ok(Self { control: address("--listen", control)?, agent: address("--agent-listen", agent)? })
    }

    /// URL that users put into WRENN_BASE_URL.
    pub fn base_url(&self) -> String {
        format!("http://{}", reachable(self.control))
    }
}

fn address(option: &str, text: &str) -> anyhow::Result<SocketAddr> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replace("localhost", "127.0.0.1") };
    full.parse().with_context(|| format!("{option} {text:?} is not of the form 127.0.0.1:8000 or :8000"))
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    reachable
}

/// How to start the host agent. It needs root for namespaces, taps and mounts.
///
/// # Errors
/// The program or a secret is missing.
pub fn agent(layout: &Layout, addresses: &Addresses) -> anyhow::Result<Spec> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the host agent needs root for network namespaces and mounts: run this with sudo");
    }
    let mut env = common(layout)?;
    env.push(("WRENN_HOST_LISTEN_ADDR".into(), addresses.agent.to_string()));
    // A developer's machine runs its owner's guests; the agent says in its log what software emulation is worth.
    if std::env::var_os("WRENN_ALLOW_TCG").is_none() {
        env.push(("WRENN_ALLOW_TCG".into(), "on".into()));
    }
    // One that a shell took from an env file of ours, perhaps of other addresses, was not chosen by anybody.
    let given = std::env::var(PROXY_DOMAIN).ok().filter(|domain| !domain.starts_with("localhost:"));
    if given.is_none() {
        env.push((PROXY_DOMAIN.into(), proxy_domain(addresses)));
    }
    Ok(Spec {
        name: "agent",
        program: program("wrenn-agent")?,
        args: Vec::new(),
        env,
        user: None,
        stop_signal: Signal::SIGTERM,
        stop_wait: Duration::from_secs(30),
    })
}

const PROXY_DOMAIN: &str = "WRENN_PROXY_DOMAIN";

/// Domain of the capsules' ports: every name below localhost is this machine; `envd ports`, `wrenn url` and the SDKs then agree.
fn proxy_domain(addresses: &Addresses) -> String {
    format!("localhost:{}", addresses.control.port())
}

/// How to start the control plane.
///
/// # Errors
/// The program or a secret is missing.
pub fn control(layout: &Layout, addresses: &Addresses) -> anyhow::Result<Spec> {
    let mut env = common(layout)?;
    env.extend([
        ("DATABASE_URL".into(), postgres::url(layout)),
        ("REDIS_URL".into(), redis::url(layout)),
        ("WRENN_CP_LISTEN_ADDR".into(), addresses.control.to_string()),
        ("CP_HOST_AGENT_ADDR".into(), format!("http://{}", reachable(addresses.agent))),
        ("WRENN_MAIL_DIR".into(), layout.mail.display().to_string()),
        ("OAUTH_REDIRECT_URL".into(), addresses.base_url()),
        (ENCRYPTION_KEY.into(), secret(layout, ENCRYPTION_KEY)?),
    ]);
    if std::env::var_os("WRENN_SIGNUP").is_none() {
        env.push(("WRENN_SIGNUP".into(), "open".into()));
    }
    if std::env::var_os("WRENN_CHANNELS_ALLOW_PRIVATE").is_none() {
        // Who runs all of it on their own machine also receives there.
        env.push(("WRENN_CHANNELS_ALLOW_PRIVATE".into(), "true".into()));
    }
    Ok(Spec {
        name: "control",
        program: program("wrenn-cp")?,
        args: Vec::new(),
        env,
        user: None,
        stop_signal: Signal::SIGTERM,
        stop_wait: Duration::from_secs(30),
    })
}

/// Secrets of one instance; made at its first start.
const SECRETS: [&str; 2] = [HOST_TOKEN, ENCRYPTION_KEY];
const HOST_TOKEN: &str = "WRENN_HOST_TOKEN";
const ENCRYPTION_KEY: &str = "WRENN_ENCRYPTION_KEY";

fn secret(layout: &Layout, name: &str) -> anyhow::Result<String> {
    env_file::read(&layout.secrets, name).context("the instance's secrets are missing")
}

fn common(layout: &Layout) -> anyhow::Result<Vec<(String, String)>> {
    let token = secret(layout, HOST_TOKEN)?;
    Ok(vec![("WRENN_DIR".into(), layout.wrenn.display().to_string()), (HOST_TOKEN.into(), token)])
}

/// Makes what the services share: secrets, and guest images where the agent looks for them.
///
/// # Errors
/// A file cannot be written, or guest images are missing.
pub fn prepare(layout: &Layout) -> anyhow::Result<()> {
    let mut secrets = Vec::with_capacity(SECRETS.len());
    for name in SECRETS {
        let value = match env_file::read(&layout.secrets, name) {
            Some(value) => value,
            None => {
                let mut random = [0u8; 32];
                getrandom::fill(&mut random).context("no random numbers to be had")?;
                hex::encode(random)
            }
        };
        secrets.push((name, value));
    }
    // Also when all are there: writing them again changes nothing.
    let secrets: Vec<_> = secrets.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env_file::write(&layout.secrets, &secrets)?;
    let missing: Vec<_> = layout.guest_parts().into_iter().filter(|(_, found)| !found).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        bail!("{} missing in {}: run `make images`", missing.join(" and "), layout.guest.display());
    }
    publish(&layout.guest.join("kernels"), &layout.wrenn.join("kernels"))?;
    publish(&layout.guest.join("images"), &layout.wrenn.join("images"))
}

/// Brings every file of `from` to `to`, replaced as a whole when its size or time differs. Files are linked, not copied,
/// where both are on one file system: an image is replaced by renaming, never written in place.
fn publish(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            publish(&source, &target)?;
        } else if !same_file(&source, &target) {
            link_or_copy(&source, &target).with_context(|| format!("cannot publish {}", target.display()))?;
        }
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => a.len() == b.len() && a.modified().ok() == b.modified().ok(),
        _ => false,
    }
}

fn link_or_copy(source: &Path, target: &Path) -> std::io::Result<()> {
    let fresh = target.with_extension("publishing");
    let _ = std::fs::remove_file(&fresh);
    if std::fs::hard_link(source, &fresh).is_err() {
        std::fs::copy(source, &fresh)?;
        let modified = source.metadata()?.modified()?;
        std::fs::File::options().write(true).open(&fresh)?.set_modified(modified)?;
    }
    std::fs::rename(&fresh, target)
}

/// Waits until the control plane answers that it is healthy and has a host with the minimal template.
///
/// # Errors
/// The control plane is not healthy in time.
pub async fn ready(layout: &Layout, addresses: &Addresses, wait: Duration) -> anyhow::Result<()> {
    let base_url = addresses.base_url();
    let client = Client::new(&Connection { base_url, api_key: None })?;
    let mut last = String::from("no answer");
    let look = async {
        loop {
            match client.health().await {
                Ok(health) if health["status"] == "ok" => return,
                Ok(health) => last = health.to_string(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(wait, look).await.is_err() {
        bail!("the control plane is not healthy after {} s ({last}); see {}", wait.as_secs(), layout.log.display());
    }
    Ok(())
}

/// Waits until a capsule can be created: the host has told the control plane that it holds the minimal template.
///
/// # Errors
/// The template is not there in time.
pub async fn template_ready(connection: &Connection, wait: Duration) -> anyhow::Result<()> {
    let client = Client::new(connection)?;
    let look = async {
        loop {
            let listed = client.get::<Vec<wrenn_contract::rest::snapshots::Template>>("/v1/snapshots").await;
            if listed.is_ok_and(|templates| templates.iter().any(|t| t.name == "minimal")) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(wait, look)
        .await
        .with_context(|| format!("no host has reported the minimal template within {} s", wait.as_secs()))
}

/// Credentials of the first user, written to the env file: an API key and an admin's password. Those in the file are kept while
/// the database knows it.
///
/// # Errors
/// The control plane refuses, or the env file cannot be written.
pub async fn credentials(layout: &Layout, addresses: &Addresses, output: &Output) -> anyhow::Result<Connection> {
    let connection = key(layout, addresses, output).await?;
    let password = admin(layout, addresses, output).await?;
    let items = [
        ("WRENN_BASE_URL", connection.base_url.as_str()),
        ("WRENN_API_KEY", connection.api_key.as_deref().unwrap_or_default()),
        (PROXY_DOMAIN, &proxy_domain(addresses)),
        ("WRENN_ADMIN_EMAIL", ADMIN_EMAIL),
        ("WRENN_ADMIN_PASSWORD", &password),
    ];
    env_file::write(&layout.env, &items)?;
    Ok(connection)
}

/// The instance's platform admin, owner of the team the key is for.
async fn admin(layout: &Layout, addresses: &Addresses, output: &Output) -> anyhow::Result<String> {
    if let Some(password) = env_file::read(&layout.env, "WRENN_ADMIN_PASSWORD") {
        let client = Client::new(&Connection { base_url: addresses.base_url(), api_key: None })?;
        let login = Login { email: ADMIN_EMAIL.into(), password: password.clone() };
        if client.post_open::<_, serde_json::Value>("/v1/auth/login", &login).await.is_ok() {
            return Ok(password);
        }
        output.note("the admin in the env file is not known to this database; making a new password");
    }
    let spec = control(layout, addresses)?;
    let made = command(&spec, &["admin", "create", "--email", ADMIN_EMAIL, "--team", "dev", "--json"]);
    let printed = run(made, Duration::from_secs(60)).await.context("could not make an admin")?;
    serde_json::from_str::<serde_json::Value>(&printed)
        .ok()
        .and_then(|value| value["password"].as_str().map(str::to_owned))
        .context("wrenn-cp printed no password")
}

/// The instance's API key: the one in its env file while the database knows it, else a new one.
async fn key(layout: &Layout, addresses: &Addresses, output: &Output) -> anyhow::Result<Connection> {
    let base_url = addresses.base_url();
    if let Some(key) = env_file::read(&layout.env, "WRENN_API_KEY") {
        let connection = Connection { base_url: base_url.clone(), api_key: Some(key.clone()) };
        let known = match Client::new(&connection) {
            Ok(client) => client.get::<serde_json::Value>("/v1/capsules").await.is_ok(),
            Err(_) => false,
        };
        if known {
            return Ok(connection);
        }
        output.note("the key in the env file is not known to this database; making a new one");
    }
    let spec = control(layout, addresses)?;
    let made = command(&spec, &["key", "create", "--team", "dev", "--name", "wrenn dev", "--json"]);
    let printed = run(made, Duration::from_secs(60)).await.context("could not make an API key")?;
    let key = serde_json::from_str::<serde_json::Value>(&printed)
        .ok()
        .and_then(|value| value["key"].as_str().map(str::to_owned))
        .context("wrenn-cp printed no key")?;
    Ok(Connection { base_url, api_key: Some(key) })
}

/// Removes every sandbox of this instance and what its agent holds on this machine. The agent must not run.
///
/// # Errors
/// The agent's program is missing or failed.
pub async fn purge(layout: &Layout, addresses: &Addresses) -> anyhow::Result<()> {
    let spec = agent(layout, addresses)?;
    run(command(&spec, &["purge"]), PURGE_WAIT).await.map(drop).context("could not remove all capsules")
}

fn command(spec: &Spec, args: &[&str]) -> Command {
    let mut command = Command::new(&spec.program);
    command.args(args).envs(spec.env.iter().map(|(k, v)| (k, v))).current_dir("/");
    command
}

async fn run(mut command: Command, wait: Duration) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let printed = tokio::time::timeout(wait, command.output())
        .await
        .with_context(|| format!("no end within {} s", wait.as_secs()))?
        .context("cannot start it")?;
    if !printed.status.success() {
        bail!("{}: {}", printed.status, String::from_utf8_lossy(&printed.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&printed.stdout).into_owned())
}
