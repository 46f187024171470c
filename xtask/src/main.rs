//! Developer commands: `cargo xtask <command>`. The Makefile calls them; nothing here ships.

use clap::{Parser, Subcommand};

mod build;
mod images;
mod tidy;

#[derive(Parser)]
#[command(name = "xtask", about = "Developer commands of the Wrenn repository")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build every program into builds/.
    Build,
    /// Make guest kernel, initramfs and the minimal image in builds/guest.
    Images(images::Options),
    /// Check what neither the compiler nor clippy checks: directions, sizes, headers, names.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Build => build::run(),
        Command::Images(options) => images::run(&options),
        Command::Tidy => tidy::run(),
    }
}

/// The workspace's root, wherever the command is called from.
pub(crate) fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
