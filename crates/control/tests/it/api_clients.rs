//! The API description is a contract: it is linted, clients are generated from it, compiled and driven, errors included, and the
//! server is tried with generated requests. The tools come from npm and PyPI into the target directory.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::sync::OnceCell;
use wrenn_testkit::skip::require;

use crate::harness::World;

/// Longest time the tools may take to be installed, and one act of the script.
const INSTALL_MAX: Duration = Duration::from_secs(300);
const ACT_MAX: Duration = Duration::from_secs(120);

/// Directory with the tools, filled once for each test run; why not, if it cannot be.
static TOOLS: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();

async fn tools() -> Result<PathBuf, String> {
    let fill = || async {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("api-clients");
        script("install", &dir, None, INSTALL_MAX).await.map(|()| dir)
    };
    TOOLS.get_or_init(fill).await.clone()
}

async fn script(act: &str, dir: &Path, world: Option<&World>, max: Duration) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/api-clients/run.sh");
    let mut command = tokio::process::Command::new(path);
    command.arg(act).arg(dir).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(world) = world {
        command.env("WRENN_BASE_URL", world.plane.url("")).env("WRENN_API_KEY", &world.key);
    }
    let done =
        tokio::time::timeout(max, command.output()).await.map_err(|_| format!("{act} took longer than {max:?}"))?;
    let done = done.map_err(|error| format!("{act} cannot be started: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{act} failed\n{}\n{}", text(&done.stdout), text(&done.stderr)))
}

async fn check(act: &str) {
    let Some(dir) = require("api-clients", tools().await) else { return };
    let world = World::start().await;
    if let Err(why) = script(act, &dir, Some(&world), ACT_MAX).await {
        panic!("{why}");
    }
}

#[tokio::test]
async fn the_description_is_clean_to_two_linters_in_both_forms() {
    check("lint").await;
}

#[tokio::test]
async fn typescript_clients_generated_from_the_description_compile_and_work() {
    check("typescript").await;
}

#[tokio::test]
async fn a_python_client_generated_from_the_description_compiles_and_works() {
    check("python").await;
}

#[tokio::test]
async fn generated_requests_find_no_fault_of_the_server() {
    check("requests").await;
}
