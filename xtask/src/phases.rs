//! How long each phase of a build or test run took, kept in `builds/phases.tsv` from one developer command to the next and printed
//! as a table by the last one.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

/// One phase and its time.
pub struct Phase {
    pub name: String,
    pub took: Duration,
}

fn file() -> PathBuf {
    crate::root().join("builds/phases.tsv")
}

/// Runs `work` and notes how long it took, also when it failed.
///
/// # Errors
/// The work's own.
pub fn timed<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    let outcome = work();
    note(name, begun.elapsed())?;
    outcome
}

/// Appends one phase.
///
/// # Errors
/// The file of phases cannot be written.
pub fn note(name: &str, took: Duration) -> anyhow::Result<()> {
    let path = file();
    fs::create_dir_all(path.with_file_name("")).context("cannot create builds/")?;
    let opened = fs::File::options().create(true).append(true).open(&path);
    let mut file = opened.with_context(|| format!("cannot open {}", path.display()))?;
    writeln!(file, "{name}\t{:.1}", took.as_secs_f64()).context("cannot note a phase")
}

/// Returns the phases noted so far, oldest first, and forgets them.
pub fn take() -> Vec<Phase> {
    let path = file();
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(&path);
    let phase = |line: &str| {
        let (name, seconds) = line.split_once('\t')?;
        Some(Phase { name: name.to_owned(), took: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()? })
    };
    text.lines().filter_map(phase).collect()
}

/// Prints a table of phases. Suites that ran side by side add up to more than the whole.
pub fn print(phases: &[Phase]) {
    println!("\n{:<44} {:>8}", "phase", "minutes");
    for phase in phases {
        println!("{:<44} {:>8.1}", phase.name, phase.took.as_secs_f64() / 60.0);
    }
}
