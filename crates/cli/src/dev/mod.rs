//! `wrenn dev`: a private PostgreSQL, a private Redis, control plane and host agent on this machine.
//!
//! ```text
//! wrenn dev        foreground: logs on the terminal, Ctrl-C stops everything
//! wrenn dev up     the same in the background; returns when a capsule can be created
//! wrenn dev down   stops what `up` started; data stays
//! ```
//!
//! This is a supervisor for one developer's machine: it starts child processes, and nothing system-wide is touched.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::output::Output;

mod child;
pub mod env_file;
pub mod layout;
mod lock;
mod logs;
mod postgres;
mod redis;
mod services;
mod supervisor;

use layout::Layout;

/// How long `up` waits for the first capsule to be possible; a first start makes a database.
const UP_WAIT: Duration = Duration::from_secs(180);
/// How long `down` waits for everything to end; the agent removes running capsules first.
const DOWN_WAIT: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where data, sockets and logs live.
    #[arg(long, global = true, env = "WRENN_DEV_DIR", default_value = ".dev", value_name = "DIR")]
    dir: PathBuf,
    /// Address the control plane listens on.
    #[arg(long, global = true, env = "WRENN_CP_LISTEN_ADDR", default_value = "127.0.0.1:8000", value_name = "ADDR")]
    listen: String,
    /// Address the host agent listens on.
    #[arg(long, global = true, env = "WRENN_HOST_LISTEN_ADDR", default_value = "127.0.0.1:50051", value_name = "ADDR")]
    agent_listen: String,
    #[command(subcommand)]
    command: Option<DevCommand>,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start in the background and return when a capsule can be created.
    Up,
    /// Stop what `up` or the foreground started. Capsules are removed, everything else stays.
    Down,
    /// The background process of `up`.
    #[command(hide = true)]
    Supervise,
}

/// Runs one of the commands.
///
/// # Errors
/// A service cannot start, or did not become ready or end in time.
pub async fn run(args: DevArgs, output: &Output) -> anyhow::Result<u8> {
    let layout = Layout::new(&args.dir)?;
    let addresses = services::Addresses::parse(&args.listen, &args.agent_listen)?;
    match args.command {
        None => supervisor::foreground(&layout, &addresses, output).await?,
        Some(DevCommand::Supervise) => supervisor::background(&layout, &addresses, output).await?,
        Some(DevCommand::Up) => supervisor::up(&layout, (&args.listen, &args.agent_listen), UP_WAIT, output).await?,
        Some(DevCommand::Down) => supervisor::down(&layout, DOWN_WAIT, output).await?,
    }
    Ok(0)
}
