//! Developer commands: `cargo xtask <command>`.

mod images;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Developer commands of the Wrenn repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make guest kernel, initramfs and the minimal image in builds/guest.
    Images(images::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Images(options) => images::run(&options),
    }
}
