//! `wrenn-fuzz`: feeds mutated corpora to the fuzz targets, each for a bounded time. An input that fails is kept in a file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use wrenn_fuzz::{INPUT_WAIT, Mutator, TARGETS, Target, corpus};

/// Feeds mutated inputs to the parsers of hostile bytes.
#[derive(Debug, Parser)]
#[command(name = "wrenn-fuzz")]
struct Args {
    /// Targets to run; all when none is named.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seed of the mutations: the same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for inputs that fail.
    #[arg(long, default_value = "target/fuzz")]
    failures: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let unknown = args.targets.iter().find(|name| TARGETS.iter().all(|target| target.name != name.as_str()));
    anyhow::ensure!(unknown.is_none(), "there is no target {}", unknown.map_or("", String::as_str));
    let chosen =
        TARGETS.iter().filter(|target| args.targets.is_empty() || args.targets.iter().any(|n| n == target.name));
    std::fs::create_dir_all(&args.failures).with_context(|| format!("create {}", args.failures.display()))?;
    let mut failed = false;
    for target in chosen {
        failed |= !run(target, &args)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs one target for its time; false when an input failed.
fn run(target: &Target, args: &Args) -> anyhow::Result<bool> {
    let seeds: Vec<Vec<u8>> = corpus(target.name)
        .with_context(|| format!("the corpus of {}", target.name))?
        .into_iter()
        .map(|(_, b)| b)
        .collect();
    let watch = Watch::start(target.name, &args.failures);
    let (mut mutator, begin, mut count) = (Mutator::new(args.seed), Instant::now(), 0u64);
    while begin.elapsed() < Duration::from_secs(args.seconds) {
        let input = mutator.next(&seeds);
        watch.begin(&input);
        let outcome = std::panic::catch_unwind(|| (target.run)(&input));
        watch.end();
        count += 1;
        if outcome.is_err() {
            let path = keep(target.name, &args.failures, &input)?;
            println!("{:<20} FAILED at input {count} of seed {}: {}", target.name, args.seed, path.display());
            return Ok(false);
        }
    }
    println!("{:<20} ok, {count} inputs in {} s", target.name, args.seconds);
    Ok(true)
}

/// Writes an input that failed into a file of its own and returns its path.
fn keep(name: &str, dir: &Path, input: &[u8]) -> anyhow::Result<PathBuf> {
    let path = dir.join(format!("{name}-{}", std::process::id()));
    std::fs::write(&path, input).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Watch ends the program when one input takes too long: a thread cannot be stopped from outside.
struct Watch {
    /// Number of the input under test; 0 between two.
    current: Arc<AtomicU64>,
    input: Arc<Mutex<Vec<u8>>>,
    count: AtomicU64,
}

impl Watch {
    fn start(name: &'static str, dir: &Path) -> Self {
        let (current, input, dir) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::default()), dir.to_owned());
        let (seen, bytes): (_, Arc<Mutex<Vec<u8>>>) = (Arc::downgrade(&current), Arc::clone(&input));
        std::thread::spawn(move || {
            let mut before = 0;
            // The thread ends with its watch.
            while let Some(current) = seen.upgrade() {
                let now = current.load(Ordering::SeqCst);
                if now != 0 && now == before {
                    let bytes = bytes.lock().map(|bytes| bytes.clone()).unwrap_or_default();
                    match keep(name, &dir, &bytes) {
                        Ok(path) => println!(
                            "{name:<20} FAILED, one input takes longer than {INPUT_WAIT:?}: {}",
                            path.display()
                        ),
                        Err(error) => {
                            println!("{name:<20} FAILED, one input takes longer than {INPUT_WAIT:?}: {error:#}")
                        }
                    }
                    std::process::exit(1);
                }
                before = now;
                drop(current);
                std::thread::sleep(INPUT_WAIT);
            }
        });
        Self { current, input, count: AtomicU64::new(0) }
    }

    fn begin(&self, input: &[u8]) {
        if let Ok(mut kept) = self.input.lock() {
            kept.clear();
            kept.extend_from_slice(input);
        }
        self.current.store(self.count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.current.store(0, Ordering::SeqCst);
    }
}
