//! `cargo xtask test`: every test program of the workspace, compiled once and run in lanes.
//!
//! What looks at the whole machine for leaks, or makes namespaces, mounts and taps, runs alone or beside suites that only use
//! databases. At the end stand the skipped tests by name and a table of phases with their minutes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::phases;

/// The suite on real VMs.
const WHOLE_STACK: &str = "wrenn-vmtest";
/// Packages whose tests use nothing of the machine but files, loopback and private databases: they run beside the whole-stack suite.
const BESIDE: [&str; 9] = [
    "wrenn-domain",
    "wrenn-contract",
    "wrenn-http",
    "wrenn-store",
    "wrenn-control",
    "wrenn-fuzz",
    "cloud-extension",
    "wrenn-testkit",
    "xtask",
];
/// Names the file that tests append their skips to; see `wrenn_testkit::skip`.
const SKIP_LOG: &str = "WRENN_TEST_SKIP_LOG";

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// Run only packages whose name contains this
    package: Option<String>,
}

/// One compiled test program.
struct Suite {
    package: String,
    name: String,
    executable: PathBuf,
    /// The package's directory, where cargo runs its tests.
    directory: PathBuf,
}

/// Compiles and runs.
///
/// # Errors
/// A suite does not compile, or a test failed.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let logs = crate::root().join("builds/test-logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut suites = phases::timed("compile the tests", compile)?;
    if let Some(part) = &options.package {
        suites.retain(|suite| suite.package.contains(part.as_str()));
    }
    let (whole, others): (Vec<Suite>, Vec<Suite>) = suites.into_iter().partition(|s| s.package == WHOLE_STACK);
    let (beside, alone): (Vec<Suite>, Vec<Suite>) =
        others.into_iter().partition(|s| BESIDE.contains(&s.package.as_str()));
    let mut failed = lane(&alone, &logs);
    let (mut one, mut other) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| lane(&beside, &logs));
        (lane(&whole, &logs), beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    failed.append(&mut one);
    failed.append(&mut other);
    phases::note("all tests with their compilation", begun.elapsed())?;
    let skipped = fs::read_to_string(logs.join("skipped")).unwrap_or_default();
    phases::print(&phases::take());
    println!("\n{} tests skipped, as WRENN_TEST_SKIP asked\n{skipped}", skipped.lines().count());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Builds every test program and says where each is.
fn compile() -> anyhow::Result<Vec<Suite>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(crate::root()).args(["test", "--workspace", "--release", "--locked", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let output = BufReader::new(child.stdout.take().context("cargo has no output")?);
    // A program is named again when it is compiled again.
    let mut suites = BTreeMap::new();
    for line in output.lines() {
        let line = line.context("cannot read what cargo says")?;
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        if message["profile"]["test"] == true
            && let Some(executable) = message["executable"].as_str()
        {
            let suite = suite(&message, executable)?;
            suites.insert((suite.package.clone(), suite.name.clone()), suite);
        }
    }
    if !child.wait().context("cargo is lost")?.success() {
        bail!("the tests do not compile");
    }
    Ok(suites.into_values().collect())
}

fn suite(message: &serde_json::Value, executable: &str) -> anyhow::Result<Suite> {
    let manifest = Path::new(message["manifest_path"].as_str().context("no manifest_path")?);
    let directory = manifest.parent().context("a manifest without a directory")?.to_owned();
    let text = fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    let package = text.lines().find_map(|line| line.strip_prefix("name = ")).context("a package without a name")?;
    let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
    let target = message["target"]["name"].as_str().context("a target without a name")?;
    let name = match kind {
        "test" => target.to_owned(),
        _ => format!("{kind} {target}"),
    };
    Ok(Suite { package: package.trim_matches('"').to_owned(), name, executable: executable.into(), directory })
}

/// Runs suites one after another; returns the names of those that failed.
fn lane(suites: &[Suite], logs: &Path) -> Vec<String> {
    let mut failed = Vec::new();
    for suite in suites {
        let title = format!("{} {}", suite.package, suite.name);
        let begun = Instant::now();
        let outcome = run_suite(suite, &title, logs);
        let took = begun.elapsed();
        // Suites without a test and quick ones would only hide the others.
        if took > Duration::from_secs(2) {
            let _ = phases::note(&title, took);
        }
        if let Err(error) = outcome {
            println!("FAILED {title}: {error:#}");
            failed.push(title);
        }
    }
    failed
}

/// Runs one suite. Its output goes to a file, and to the terminal when it is over: two lanes would mix theirs.
fn run_suite(suite: &Suite, title: &str, logs: &Path) -> anyhow::Result<()> {
    let path = logs.join(format!("{}.log", title.replace(' ', "-")));
    let log = File::create(&path).with_context(|| path.display().to_string())?;
    let errors = log.try_clone().context("cannot share the log")?;
    let begun = Instant::now();
    let status = Command::new(&suite.executable)
        .current_dir(&suite.directory)
        .env("CARGO_MANIFEST_DIR", &suite.directory)
        .env(SKIP_LOG, logs.join("skipped"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .status()
        .context("cannot start it")?;
    let mut bytes = Vec::new();
    File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).context("cannot read its output")?;
    let text = String::from_utf8_lossy(&bytes);
    if !status.success() {
        println!("{text}");
        bail!("{status}; its output is in {}", path.display());
    }
    let result = text.lines().rev().find(|line| line.starts_with("test result")).unwrap_or("no result");
    println!("{title} ({:.0} s)\n{result}", begun.elapsed().as_secs_f64());
    Ok(())
}
