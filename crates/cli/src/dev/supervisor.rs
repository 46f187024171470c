//! Starts the services in order, keeps them running, stops them in reverse.
//!
//! ```text
//! lock -> clear leftovers -> postgres -> redis -> agent -> control -> key, env file -> watch ... -> stop in reverse
//! ```
//! Killed at any point, the next start finds the leftovers by their records and ends them; sandboxes of a killed agent
//! are adopted by the next one.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::select_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::child::{Service, Spec, end_leftovers};
use super::layout::Layout;
use super::services::{self, Addresses};
use super::{lock, logs, postgres, redis};
use crate::api::Connection;
use crate::output::Output;

/// A first answer after migrations and the import of images.
const HEALTHY_WAIT: Duration = Duration::from_secs(120);
/// Pause before a service that died is started again, so that one that cannot run does not spin.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Deaths, each soon after the one before, at which the supervisor gives up: what cannot run will not by being started again.
const RESTARTS_MAX: usize = 20;
/// Life after which a service counts as able to run: its death begins a new count.
const LIFE_MIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Every service, in the order they start.
const NAMES: [&str; 4] = ["postgres", "redis", "agent", "control"];
/// File whose presence tells `up` that a capsule can be created.
const READY_MARK: &str = "ready";

/// Runs until Ctrl-C or SIGTERM, with the logs on the terminal.
///
/// # Errors
/// A service cannot start, or died too often.
pub async fn foreground(layout: &Layout, addresses: &Addresses, output: &Output) -> anyhow::Result<()> {
    layout.create()?;
    let followed = logs::follow(&layout.log, &NAMES);
    let outcome = supervise(layout, addresses, output).await;
    followed.abort();
    outcome
}

/// Runs detached from the terminal that started it.
///
/// # Errors
/// A service cannot start, or died too often.
pub async fn background(layout: &Layout, addresses: &Addresses, output: &Output) -> anyhow::Result<()> {
    nix::unistd::setsid().context("cannot leave the terminal")?;
    layout.create()?;
    supervise(layout, addresses, output).await
}

async fn supervise(layout: &Layout, addresses: &Addresses, output: &Output) -> anyhow::Result<()> {
    let _lock = lock::take(layout)?;
    let _ = std::fs::remove_file(layout.run.join(READY_MARK));
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut running = Vec::new();
    let outcome = tokio::select! {
        // The wish to stop comes first, also during a start that hangs.
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        outcome = start_and_watch(layout, addresses, output, &mut running) => outcome,
    };
    let _ = std::fs::remove_file(layout.run.join(READY_MARK));
    output.note("stopping");
    let stopped = stop(layout, addresses, running).await;
    outcome.and(stopped)
}

async fn start_and_watch(
    layout: &Layout,
    addresses: &Addresses,
    output: &Output,
    running: &mut Vec<Service>,
) -> anyhow::Result<()> {
    clear_leftovers(layout).await?;
    services::prepare(layout)?;
    if !layout.postgres.join("PG_VERSION").exists() {
        output.note("first start: making a database");
    }
    running.push(postgres::prepare(layout).await?.start(layout)?);
    running.push(redis::prepare(layout)?.start(layout)?);
    running.push(services::agent(layout, addresses)?.start(layout)?);
    postgres::ready(layout).await?;
    redis::ready(layout).await?;
    running.push(services::control(layout, addresses)?.start(layout)?);
    let first = async {
        services::ready(layout, addresses, HEALTHY_WAIT).await?;
        let connection = services::credentials(layout, addresses, output).await?;
        services::template_ready(&connection, HEALTHY_WAIT).await?;
        announce(layout, &connection, output)
    };
    // A service that cannot start must end the wait for it.
    tokio::select! {
        biased;
        outcome = first => outcome?,
        died = any_ended(running) => bail!("{} while starting; see {}", died.1, layout.log.display()),
    }
    watch(layout, output, running).await
}

fn announce(layout: &Layout, connection: &Connection, output: &Output) -> anyhow::Result<()> {
    std::fs::write(layout.run.join(READY_MARK), "").context("cannot mark the instance as ready")?;
    output.note(&format!(
        "\nWrenn runs at {} (API documentation at {}/docs).\nURL, key and the admin's password are in {}; try: wrenn capsule create\n",
        connection.base_url,
        connection.base_url,
        layout.env.display()
    ));
    Ok(())
}

/// Starts again what dies, until one dies too often.
async fn watch(layout: &Layout, output: &Output, running: &mut [Service]) -> anyhow::Result<()> {
    let mut restarts = 0;
    let mut last = tokio::time::Instant::now();
    loop {
        let (index, how) = any_ended(running).await;
        restarts = if last.elapsed() > RESTART_PAUSE + LIFE_MIN { 1 } else { restarts + 1 };
        last = tokio::time::Instant::now();
        output.note(&format!("{how}; starting it again"));
        if restarts > RESTARTS_MAX {
            bail!("services died {restarts} times; see {}", layout.log.display());
        }
        tokio::time::sleep(RESTART_PAUSE).await;
        let spec: Spec = running[index].spec().clone();
        running[index] = spec.start(layout)?;
    }
}

async fn any_ended(running: &mut [Service]) -> (usize, String) {
    let waits = running.iter_mut().map(|service| {
        Box::pin(async move {
            let how = service.ended().await;
            format!("{} ended ({how})", service.name())
        })
    });
    let (how, index, _) = select_all(waits).await;
    (index, how)
}

/// Stops in the reverse order of the start; sandboxes are removed between agent and database.
async fn stop(layout: &Layout, addresses: &Addresses, mut running: Vec<Service>) -> anyhow::Result<()> {
    let had_agent = running.iter().any(|service| service.name() == "agent");
    let mut purged = Ok(());
    while let Some(service) = running.pop() {
        let name = service.name();
        service.stop().await;
        if name == "agent" && had_agent {
            purged = services::purge(layout, addresses).await;
        }
    }
    purged
}

async fn clear_leftovers(layout: &Layout) -> anyhow::Result<()> {
    for name in NAMES.iter().rev() {
        let signal = if *name == "postgres" { Signal::SIGINT } else { Signal::SIGTERM };
        end_leftovers(layout, name, signal, Duration::from_secs(30)).await?;
    }
    Ok(())
}

/// Starts the background process and waits until a capsule can be created.
///
/// # Errors
/// The supervisor cannot start, or is not ready in time.
pub async fn up(
    layout: &Layout,
    (listen, agent_listen): (&str, &str),
    wait: Duration,
    output: &Output,
) -> anyhow::Result<()> {
    layout.create()?;
    if lock::holder(layout)?.is_some() && layout.run.join(READY_MARK).exists() {
        output.result(&serde_json::json!({"running": true, "env": layout.env}), || {
            format!("runs already; URL and key are in {}", layout.env.display())
        });
        return Ok(());
    }
    let spinner = output.spinner("starting Wrenn");
    let log_path = layout.log.join("dev.log");
    let log = std::fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = tokio::process::Command::new(std::env::current_exe().context("cannot find myself")?)
        .args(["dev", "supervise", "--listen", listen, "--agent-listen", agent_listen])
        .arg("--dir")
        .arg(&layout.root)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log file")?)
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    let mark = layout.run.join(READY_MARK);
    let _ = std::fs::remove_file(&mark);
    let ready = async {
        while !mark.exists() {
            if let Ok(Some(status)) = child.try_wait() {
                let said = std::fs::read_to_string(&log_path).unwrap_or_default();
                bail!("the supervisor ended ({status}):\n{}", said.trim());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    tokio::time::timeout(wait, ready)
        .await
        .with_context(|| format!("not ready after {} s; see {}", wait.as_secs(), layout.log.display()))??;
    spinner.finish_and_clear();
    output.result(&serde_json::json!({"running": true, "env": layout.env}), || {
        format!("Wrenn runs; URL and key are in {}", layout.env.display())
    });
    Ok(())
}

/// Stops the supervisor, and what a killed one left.
///
/// # Errors
/// The supervisor does not end in time.
pub async fn down(layout: &Layout, wait: Duration, output: &Output) -> anyhow::Result<()> {
    let spinner = output.spinner("stopping Wrenn");
    let deadline = tokio::time::Instant::now() + wait;
    if let Some(pid) = lock::holder(layout)? {
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot signal the supervisor; was it started with sudo?")?;
        // The lock goes a moment before the process does. One that has ended but was not waited for has no program.
        let program = format!("/proc/{pid}/exe");
        while lock::holder(layout)?.is_some() || std::fs::read_link(&program).is_ok() {
            if tokio::time::Instant::now() >= deadline {
                bail!("process {pid} has not stopped within {} s; see {}", wait.as_secs(), layout.log.display());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    } else if layout.run.exists() {
        let had_agent = layout.run.join("agent.pid").exists();
        clear_leftovers(layout).await?;
        if had_agent {
            let nowhere = Addresses::parse("127.0.0.1:0", "127.0.0.1:0")?;
            services::purge(layout, &nowhere).await?;
        }
    }
    spinner.finish_and_clear();
    output.result(&serde_json::json!({"running": false}), || "Wrenn is stopped; its data stays".to_owned());
    Ok(())
}
