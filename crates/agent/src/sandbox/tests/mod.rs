//! The agent's own logic on a fake host: everything that needs no real VM, in milliseconds.

mod kills;
mod life;
mod recovery;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wrenn_domain::ids::SandboxId;

use super::{Phase, Report};
use crate::fake::{FakeAgent, World};
use crate::ledger::Ledger;

fn new_id() -> SandboxId {
    SandboxId::from_uuid(uuid::Uuid::new_v4())
}

/// Waits for something of the fake host.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "not so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ledger(world: &World, id: SandboxId) -> Ledger {
    Ledger::read(&world.sandbox_dir(id), id).expect("a ledger")
}

/// Returns the VM of a sandbox that runs.
fn vm(world: &World, id: SandboxId) -> Arc<crate::fake::FakeVm> {
    world.vm(ledger(world, id).machine.expect("a machine").process.pid).expect("its VM runs")
}

fn pause(agent: &FakeAgent, id: SandboxId, operation: u64) -> Option<Report> {
    agent.call(move |registry| async move { registry.pause(id, operation) })?.expect("it is taken");
    agent.wait(id, |report| report.operation == operation)
}

fn resume(agent: &FakeAgent, id: SandboxId, operation: u64) -> Option<Report> {
    agent.call(move |registry| async move { registry.resume(id, operation, None) })?.expect("it is taken");
    agent.wait(id, |report| report.operation == operation)
}

fn delete(agent: &FakeAgent, id: SandboxId) {
    agent.call(move |registry| async move { registry.delete(id) }).expect("it lives");
    agent.wait_phase(id, Phase::Gone).expect("it lives");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Asserts that nothing of any sandbox is left on an agent without pools.
fn nothing_is_left(world: &World) {
    until("no VMM runs", || world.living().is_empty());
    until("no slot is taken", || crate::mutex::lock(&world.slots).is_empty());
    for dir in ["sandboxes", "making"] {
        assert_eq!(names(&world.dir().join(dir)), Vec::<String>::new(), "{dir}");
    }
    assert_eq!(names(&world.dir().join("run")), Vec::<String>::new(), "run");
}
