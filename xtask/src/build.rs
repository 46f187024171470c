//! `cargo xtask build`: release programs into `builds/`, each replaced in one step so that a running one is never torn.
//! The guest's own are built static and checked to be so; `cargo xtask images` puts the same files into the image.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::images::binaries;

/// Programs that run on a host.
const PROGRAMS: [(&str, &str); 3] =
    [("wrenn-control", "wrenn-cp"), ("wrenn-agent", "wrenn-agent"), ("wrenn-cli", "wrenn")];

/// Builds and installs.
pub fn run() -> anyhow::Result<()> {
    let root = crate::root();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(&root).args(["build", "--release", "--locked"]);
    for (package, program) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the build failed");
    }
    let builds = root.join("builds");
    std::fs::create_dir_all(&builds).context("cannot create builds/")?;
    for (_, program) in PROGRAMS {
        install(&root.join("target/release").join(program), &builds.join(program))?;
    }
    let guest = binaries::build(&root)?;
    install(&guest.envd, &builds.join("envd"))
}

/// Copies a program to its place by rename.
pub fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).with_context(|| format!("cannot copy {} to {}", from.display(), fresh.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("cannot replace {}", to.display()))?;
    println!("{}", to.display());
    Ok(())
}
