//! Whole-stack tests on real VMs. One stack serves all tests; after the last one it is stopped and the machine must hold
//! nothing that was not there before.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use wrenn_vmtest::{HostState, Stack};

mod attack;
mod captures;
mod copies;
mod copying;
mod faults;
mod hardship;
mod lifecycle;
mod network;
mod ports;
mod restart;
mod running;
mod sdk;

/// A test with its name.
type Case = (&'static str, fn(&Stack) -> anyhow::Result<()>);
/// A test of a family that is made by a loop, as it is run.
type Run = Box<dyn Fn(&Stack) -> anyhow::Result<()> + Send>;

/// Passes a test that lacks something, said aloud, when `WRENN_TEST_SKIP` names the test or what it lacks.
///
/// # Errors
/// `WRENN_TEST_SKIP` names neither.
fn skip(test: &str, need: &str, why: &str) -> anyhow::Result<()> {
    anyhow::ensure!(wrenn_testkit::skip::is_allowed(need, test), wrenn_testkit::skip::refusal(need, why));
    wrenn_testkit::skip::note(test, need, why);
    Ok(())
}

/// Lists every test, in the order in which they run.
fn all() -> Vec<(String, Run)> {
    let named = |cases: &'static [Case]| cases.iter().map(|(name, case)| ((*name).to_owned(), Box::new(*case) as Run));
    let first = [
        running::CASES,
        copies::CASES,
        copying::CASES,
        lifecycle::CASES,
        network::CASES,
        ports::CASES,
        captures::CASES,
        sdk::CASES,
        attack::CASES,
    ];
    let last = [hardship::CASES, restart::CASES];
    first.into_iter().flat_map(named).chain(faults::cases()).chain(last.into_iter().flat_map(named)).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let builds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../builds");
    let builds = builds.canonicalize().unwrap_or(builds);
    let cases = all();
    if let Some(why) = Stack::missing(&builds) {
        let why = format!("{why}; run `make build images`");
        let refused = cases.into_iter().map(|(name, _)| {
            let (test, why) = (name.clone(), why.clone());
            Trial::test(name, move || skip(&test, "vm", &why).map_err(|error| Failed::from(format!("{error:#}"))))
        });
        return libtest_mimic::run(&arguments, refused.collect()).exit_code();
    }
    if arguments.list {
        let listed = cases.into_iter().map(|(name, _)| Trial::test(name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, listed).exit_code();
    }
    // One after another: a guest without hardware virtualisation takes a whole core, and some tests kill services.
    arguments.test_threads = Some(1);
    // Steps at which the agent can be made to die are switched on for the fault tests.
    let stack = match Stack::up_with(&builds, &[("WRENN_FAULTS", "on")]) {
        Ok(stack) => Arc::new(stack),
        Err(error) => {
            eprintln!("the stack did not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            let stack = Arc::clone(&stack);
            Trial::test(name, move || {
                let begun = Instant::now();
                let outcome = case(&stack).map_err(|error| Failed::from(format!("{error:?}")));
                eprint!("{:.1} s ", begun.elapsed().as_secs_f64());
                outcome
            })
        })
        .collect();
    let before = stack.before().clone();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let stopped = match Arc::try_unwrap(stack) {
        Ok(stack) => stack.down(),
        Err(shared) => shared.stop(),
    };
    if let Err(error) = stopped {
        eprintln!("the stack did not stop: {error:#}");
        return ExitCode::FAILURE;
    }
    // The supervisor itself ends a moment after it has said that all is stopped.
    let mut left = HostState::now().new_since(&before);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while !left.is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
        left = HostState::now().new_since(&before);
    }
    if !left.is_empty() {
        eprintln!("left behind:\n{}", left.join("\n"));
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
