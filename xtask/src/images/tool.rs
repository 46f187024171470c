//! Running other programs: output shown only when they fail, and what to install when they are missing.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Options;

/// Fails with the Debian packages to install when one of (program, package) is missing.
///
/// # Errors
/// A program is missing.
pub fn require(tools: &[(&str, &str)]) -> Result<()> {
    let places = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let there = |tool: &str| places.split(':').any(|place| Path::new(place).join(tool).exists());
    let mut missing: Vec<&str> = tools.iter().filter(|(tool, _)| !there(tool)).map(|(_, package)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        bail!("missing Debian packages: apt-get install {}", missing.join(" "));
    }
    Ok(())
}

/// A command with a path that finds administration tools and messages in English.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command.env("PATH", path).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs to the end and returns standard output; a failure shows both streams.
///
/// # Errors
/// The program cannot be started, or failed.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{:?} ended with {}\n{}{}",
            command,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

/// As [`output`], for text.
///
/// # Errors
/// The program cannot be started, failed, or printed no text.
pub fn text(command: &mut Command) -> Result<String> {
    String::from_utf8(output(command)?).context("output is not text")
}

/// Whether this process may make files of any owner.
///
/// # Errors
/// The program `id` cannot be run.
pub fn is_root() -> Result<bool> {
    Ok(text(command("id").arg("-u"))?.trim() == "0")
}

/// Runs this program again as root, with the guest binaries already built.
///
/// # Errors
/// The program cannot be started, or failed.
pub fn run_again_with_sudo(options: &Options) -> Result<()> {
    require(&[("sudo", "sudo")]).context("run `cargo xtask images` as root, or install sudo")?;
    let own = std::env::current_exe().context("find this program")?;
    let mut command = Command::new("sudo");
    command.arg("--preserve-env=WRENN_DEBIAN_MIRROR").arg(own).arg("images").arg("--no-build");
    command.arg("--out").arg(&options.out);
    if options.fresh {
        command.arg("--fresh");
    }
    let status = command.status().context("start sudo")?;
    if !status.success() {
        bail!("the part that needs root ended with {status}");
    }
    Ok(())
}
