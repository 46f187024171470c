//! The published Python SDK, unchanged, drives the whole stack: the suite is in `sdk/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use sha2::Digest;
use wrenn_vmtest::Stack;

use crate::Case;

pub const CASES: &[Case] = &[("sdk::the_published_python_sdk_works_unchanged", suite)];

fn suite(stack: &Stack) -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let Some(python) = environment(&source.join("requirements.txt"))? else { return Ok(()) };
    let output = Command::new(python)
        .args(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"])
        .arg(&source)
        .env("WRENN_BASE_URL", stack.value("WRENN_BASE_URL")?)
        .env("WRENN_API_KEY", stack.value("WRENN_API_KEY")?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&source)
        .output()
        .context("python does not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A virtual environment of exactly these requirements, made once; its interpreter. None, said aloud, on a machine without a way
/// to the package index: it can still run everything else.
fn environment(requirements: &Path) -> anyhow::Result<Option<PathBuf>> {
    let wanted = std::fs::read(requirements)?;
    let name = format!("sdk-{}", &hex::encode(sha2::Sha256::digest(&wanted))[..12]);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = place.join("bin/python");
    let done = place.join("done");
    if done.exists() {
        return Ok(Some(python));
    }
    let _ = std::fs::remove_dir_all(&place);
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&place).output().context("python3 does not start")?;
    ensure!(venv.status.success(), "no virtual environment: {}", String::from_utf8_lossy(&venv.stderr));
    let install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--ignore-requires-python", "-r"];
    let installed = Command::new(&python).args(install).arg(requirements).output().context("pip does not start")?;
    let said = String::from_utf8_lossy(&installed.stderr);
    if !installed.status.success() && said.contains("connection broken") {
        eprintln!("SKIPPED: the published SDK cannot be fetched from here: {said}");
        return Ok(None);
    }
    ensure!(installed.status.success(), "the published SDK does not install: {said}");
    std::fs::write(done, "")?;
    Ok(Some(python))
}
