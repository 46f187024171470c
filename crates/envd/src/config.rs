//! The command line: the only place that reads it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The agent inside a Wrenn guest.
#[derive(Debug, Parser)]
#[command(name = "envd", version)]
pub struct Cli {
    #[command(flatten)]
    pub serve: Config,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands of envd besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the ports programs in this sandbox listen on, with the addresses they are reachable at.
    Ports {
        /// Domain of the addresses; by default the one this sandbox was told.
        #[arg(long)]
        domain: Option<String>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:49983")]
    pub listen: SocketAddr,
    /// Leave the machine alone: no clock, entropy, host name, machine id, resolver or file system changes. For tests
    /// outside a guest.
    #[arg(long)]
    pub no_system: bool,
    /// cgroup v2 directory below which processes get their groups; without it they stay where envd is.
    #[arg(long, default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Directory for the files that tell programs in the sandbox who they are.
    #[arg(long, default_value = "/run/wrenn")]
    pub run_dir: PathBuf,
}
