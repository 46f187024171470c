//! Whole-stack tests on real VMs. One stack serves all tests; after the last one it is stopped and the machine must hold
//! nothing that was not there before.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use wrenn_vmtest::{HostState, Stack};

mod captures;
mod copying;
mod faults;
mod hardship;
mod lifecycle;
mod network;
mod ports;
mod restart;
mod running;
mod sdk;

type Case = (&'static str, fn(&Stack) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let builds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../builds");
    let builds = builds.canonicalize().unwrap_or(builds);
    let cases: Vec<Case> = [
        running::CASES,
        copying::CASES,
        lifecycle::CASES,
        network::CASES,
        ports::CASES,
        captures::CASES,
        sdk::CASES,
        faults::CASES,
        hardship::CASES,
        restart::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    if let Some(why) = Stack::missing(&builds) {
        println!("SKIPPED: {} whole-stack tests: {why}; run `make build images`", cases.len());
        let ignored = cases.into_iter().map(|(name, _)| Trial::test(name, || Ok(())).with_ignored_flag(true));
        return libtest_mimic::run(&arguments, ignored.collect()).exit_code();
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
