//! The agent inside a guest. See the library.

use clap::Parser;
use tracing_subscriber::EnvFilter;
use wrenn_envd::config::{Cli, Command};

fn main() -> anyhow::Result<()> {
    wrenn_linux::memory::limit_heaps(2);
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("LOG_LEVEL").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).json().with_writer(std::io::stderr).init();
    match cli.command {
        None => Ok(wrenn_envd::serve(&cli.serve)?),
        Some(Command::Ports { domain, json }) => wrenn_envd::ports::print(&cli.serve.run_dir, domain.as_deref(), json),
    }
}
