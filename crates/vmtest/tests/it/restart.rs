//! Nothing is lost when one of the programs dies.

use std::time::Duration;

use anyhow::{Context, ensure};
use wrenn_vmtest::{HostState, Stack, wait_until};

use crate::Case;

const BACK: Duration = Duration::from_secs(60);

pub const CASES: &[Case] = &[
    ("restart::a_killed_agent_loses_no_capsule_and_no_process", agent),
    ("restart::measurements_outlive_a_pause_and_an_agent_that_is_asked_to_end", measurements),
    ("restart::a_killed_control_plane_loses_no_capsule", control),
    ("restart::a_killed_control_plane_finishes_what_it_had_accepted", control_in_create),
    ("restart::a_stopped_stack_leaves_nothing_and_comes_back_with_its_keys", whole_stack),
];

/// A process in the capsule that counts in memory only: a reboot would begin again at zero.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.2; done";

fn agent(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    stack.exec(&id, &["sh", "-c", "echo kept > file"])?;
    stack.wrenn(&["exec", "-d", &id, "--", "sh", "-c", COUNTER])?.ok()?;
    let count = || -> anyhow::Result<u64> { Ok(stack.exec(&id, &["cat", "/dev/shm/count"])?.trim().parse()?) };
    wait_until("the counter counts", BACK, || Ok(count()? > 3))?;
    let reached = count()?;
    stack.kill_service("agent")?;
    wait_until("the capsule answers again", BACK, || Ok(count()? > reached))?;
    ensure!(stack.exec(&id, &["cat", "file"])? == "kept");
    ensure!(stack.status(&id)? == "running");
    stack.remove(&id)
}

/// Times at which a capsule was measured, in the finest ring.
fn measured(stack: &Stack, id: &str) -> anyhow::Result<Vec<i64>> {
    let metrics = stack.wrenn(&["--json", "capsule", "metrics", id])?.ok()?.json()?;
    let points = metrics["points"].as_array().context("no points")?;
    Ok(points.iter().filter_map(|point| point["timestamp_unix"].as_i64()).collect())
}

fn measurements(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let reach = |count: usize| {
        wait_until("it was measured", BACK, || Ok(measured(stack, &id)?.len() >= count))?;
        measured(stack, &id)
    };
    let before = reach(4)?;
    stack.wrenn(&["capsule", "pause", &id])?.ok()?;
    let paused = measured(stack, &id)?;
    ensure!(paused.starts_with(&before), "{paused:?} while paused, {before:?} before");
    stack.wrenn(&["capsule", "resume", &id])?.ok()?;
    let resumed = reach(paused.len() + 4)?;
    ensure!(resumed.starts_with(&paused), "{resumed:?} after the resume, {paused:?} before");
    stack.end_service("agent")?;
    let restarted = reach(resumed.len() + 4)?;
    ensure!(restarted.starts_with(&resumed), "{restarted:?} after the restart, {resumed:?} before");
    stack.remove(&id)
}

fn control(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    stack.kill_service("control")?;
    wait_until("the capsule answers again", BACK, || Ok(stack.exec(&id, &["echo", "here"])? == "here"))?;
    stack.remove(&id)
}

fn control_in_create(stack: &Stack) -> anyhow::Result<()> {
    let made = stack.wrenn(&["--json", "capsule", "create", "--no-wait"])?.ok()?.json()?;
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    stack.kill_service("control")?;
    wait_until("the capsule runs", BACK, || Ok(stack.status(&id)? == "running"))?;
    stack.kill_service("control")?;
    wait_until("it can be removed", BACK, || stack.remove(&id).map(|()| true))
}

fn whole_stack(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let key = stack.value("WRENN_API_KEY")?;
    stack.stop()?;
    // The supervisor itself ends a moment after it has said that all is stopped.
    wait_until("nothing is left", BACK, || {
        let left = HostState::now().new_since(stack.before());
        ensure!(left.is_empty(), "{left:?}");
        Ok(true)
    })?;
    stack.resume()?;
    let text = std::fs::read_to_string(stack.dir().join("env"))?;
    ensure!(text.contains(&key), "the key changed");
    // The capsule ended with the stack, and its row says so instead of "running".
    wait_until("the row tells the truth", BACK, || {
        Ok(matches!(stack.status(&id)?.as_str(), "stopped" | "error" | "missing"))
    })?;
    let again = stack.capsule(&[])?;
    stack.remove(&again)
}
