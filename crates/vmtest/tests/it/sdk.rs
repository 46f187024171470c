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
    let python = match environment(&source.join("requirements.txt")) {
        Ok(python) => python,
        Err(error) => {
            // A machine without a way to the package index can still run everything else.
            eprintln!("SKIPPED: the published SDK cannot be installed here: {error:#}");
            return Ok(());
        }
    };
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

/// A virtual environment of exactly these requirements, made once; its interpreter.
fn environment(requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::fs::read(requirements)?;
    let name = format!("sdk-{}", &hex::encode(sha2::Sha256::digest(&wanted))[..12]);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = place.join("bin/python");
    let done = place.join("done");
    if done.exists() {
        return Ok(python);
    }
    let _ = std::fs::remove_dir_all(&place);
    run(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--ignore-requires-python", "-r"];
    run(Command::new(&python).args(install).arg(requirements))?;
    std::fs::write(done, "")?;
    Ok(python)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
