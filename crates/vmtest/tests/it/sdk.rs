//! The published Python SDK, unchanged, drives the whole stack: the suite is in `sdk/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use sha2::Digest;
use wrenn_vmtest::Stack;

use crate::{Case, skip};

const NAME: &str = "sdk::the_published_python_sdk_works_unchanged";
pub const CASES: &[Case] = &[(NAME, suite)];

fn suite(stack: &Stack) -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let python = match environment(&source.join("requirements.txt"))? {
        Ok(python) => python,
        Err(why) => return skip(NAME, "pypi", &why),
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

/// Makes a virtual environment of exactly these requirements, once, and returns its interpreter; or why there is none, on a machine
/// without a way to the package index.
fn environment(requirements: &Path) -> anyhow::Result<Result<PathBuf, String>> {
    let wanted = std::fs::read(requirements)?;
    let name = format!("sdk-{}", &hex::encode(sha2::Sha256::digest(&wanted))[..12]);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = path.join("bin/python");
    let done = path.join("done");
    if done.exists() {
        return Ok(Ok(python));
    }
    let _ = std::fs::remove_dir_all(&path);
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&path).output().context("python3 does not start")?;
    ensure!(venv.status.success(), "no virtual environment: {}", String::from_utf8_lossy(&venv.stderr));
    let install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--ignore-requires-python", "-r"];
    let installed = Command::new(&python).args(install).arg(requirements).output().context("pip does not start")?;
    let said = String::from_utf8_lossy(&installed.stderr);
    if !installed.status.success() && said.contains("connection broken") {
        return Ok(Err(format!("the published SDK cannot be fetched from here: {said}")));
    }
    ensure!(installed.status.success(), "the published SDK does not install: {said}");
    std::fs::write(done, "")?;
    Ok(Ok(python))
}
