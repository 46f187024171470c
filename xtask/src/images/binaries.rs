//! The programs inside the guest, built static and checked to be so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{say, tool};

const GNU: &str = "x86_64-unknown-linux-gnu";
const MUSL: &str = "x86_64-unknown-linux-musl";

/// Paths of the built programs.
pub struct Binaries {
    pub envd: PathBuf,
    pub wrenn_init: PathBuf,
}

/// Builds both with cargo.
///
/// # Errors
/// A program does not build, or is not static.
pub fn build(repository: &Path) -> Result<Binaries> {
    let target = target()?;
    say(&format!("building envd and wrenn-init for {target}"));
    let mut flags = "-Ctarget-feature=+crt-static".to_owned();
    if Command::new("ld.lld").arg("--version").output().is_ok() {
        flags.push_str(" -Clink-arg=-fuse-ld=lld");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(repository)
        // Flags and directories of the cargo that runs this must not leak into the guest's build.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env("RUSTFLAGS", flags)
        .args(["build", "--quiet", "--locked", "--package", "wrenn-envd", "--profile", "guest", "--target", target])
        .args(["--target-dir", "target/guest"])
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "building the guest's programs failed");
    built(repository)
}

/// The programs of the last build.
///
/// # Errors
/// A program is missing.
pub fn built(repository: &Path) -> Result<Binaries> {
    let places = [MUSL, GNU].map(|target| repository.join("target/guest").join(target).join("guest"));
    let Some(place) = places.iter().find(|place| place.join("envd").exists()) else {
        bail!("envd is not built: run `cargo xtask images` as the user who builds");
    };
    let binaries = Binaries { envd: place.join("envd"), wrenn_init: place.join("wrenn-init") };
    for path in [&binaries.envd, &binaries.wrenn_init] {
        check_static(path)?;
    }
    Ok(binaries)
}

/// musl when rustup has it: smaller, and no glibc corners.
fn target() -> Result<&'static str> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let libraries = tool::text(Command::new(rustc).args(["--print", "target-libdir", "--target", MUSL]))?;
    Ok(if Path::new(libraries.trim()).is_dir() { MUSL } else { GNU })
}

/// An ELF file that names an interpreter needs libraries the guest may not have.
fn check_static(path: &Path) -> Result<()> {
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "{} is not a 64-bit ELF program", path.display());
    let half = |at: usize| bytes.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(table), Some(size), Some(count)) = (word(32), half(54), half(56)) else {
        bail!("{} is cut off", path.display());
    };
    for index in 0..count {
        let kind = word(table as usize + index * size).with_context(|| format!("{} is cut off", path.display()))?;
        ensure!(kind != PT_INTERP, "{} is not static", path.display());
    }
    Ok(())
}
