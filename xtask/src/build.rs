//! `cargo xtask build`: release programs into `builds/`, each replaced in one step so that a running one is never torn.
//! The guest's own are built static and checked to be so; `cargo xtask images` puts the same files into the image.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::images::binaries;

/// Programs that run on a host.
const PROGRAMS: [&str; 3] = ["wrenn-cp", "wrenn-agent", "wrenn"];

/// Builds and installs.
///
/// # Errors
/// A program does not build or cannot be copied.
pub fn run() -> anyhow::Result<()> {
    let root = crate::root();
    let mut cargo = Command::new(env!("CARGO"));
    // Of the whole workspace: `cargo test --workspace` then finds everything compiled with the features it wants.
    cargo.current_dir(&root).args(["build", "--release", "--locked", "--workspace"]);
    cargo.args(["--exclude", "xtask", "--exclude", "wrenn-bench"]);
    for program in PROGRAMS {
        cargo.args(["--bin", program]);
    }
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the build failed");
    }
    let builds = root.join("builds");
    std::fs::create_dir_all(&builds).context("cannot create builds/")?;
    for program in PROGRAMS {
        install(&root.join("target/release").join(program), &builds.join(program))?;
    }
    let guest = binaries::build(&root)?;
    install(&guest.envd, &builds.join("envd"))
}

/// Copies a program to its place by rename.
///
/// # Errors
/// The program cannot be copied or renamed.
pub fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).with_context(|| format!("cannot copy {} to {}", from.display(), fresh.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("cannot replace {}", to.display()))?;
    println!("{}", to.display());
    Ok(())
}
