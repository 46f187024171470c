//! Developer commands: `cargo xtask <command>`. The Makefile calls them; nothing here ships.

use clap::{Parser, Subcommand};

mod build;
mod tidy;

#[derive(Debug, Parser)]
#[command(name = "xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build every program into builds/.
    Build,
    /// Check what neither the compiler nor clippy checks: directions, sizes, headers, names.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Build => build::run(),
        Command::Tidy => tidy::run(),
    }
}

/// The workspace's root, wherever the command is called from.
pub(crate) fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
