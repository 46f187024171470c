//! Developer commands: `cargo xtask <command>`. The Makefile calls them; nothing here ships.

use clap::{Parser, Subcommand};

mod build;
mod images;
mod phases;
mod test;
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
    /// Compile and run every test, in lanes; print skipped tests and a table of phases.
    Test(test::Options),
    /// Check what neither the compiler nor clippy checks: directions, circles, sizes, headers, names, docs, literals.
    Tidy,
    /// Print which modules name which others today, in the form of the table in docs/ARCHITECTURE.md.
    Modules,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Build => phases::timed("build the programs", build::run),
        Command::Images(options) => phases::timed("make kernel and images", || images::run(&options)),
        Command::Test(options) => test::run(&options),
        Command::Tidy => tidy::run(),
        Command::Modules => tidy::print_modules(),
    }
}

/// The workspace's root, wherever the command is called from.
pub(crate) fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
