//! Agent and VMM are killed at every named step of every operation, and the power of the store is cut. Afterwards each capsule runs,
//! is paused, or has crashed with its disk: never gone, and never memory of one moment with the disk of another.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use wrenn_agent::faults::Point;
use wrenn_vmtest::{Answer, Stack, wait_until};

use crate::{Run, skip};

/// Lists one test for each step and victim, so that one failure hides no other.
pub fn cases() -> impl Iterator<Item = (String, Run)> {
    let agent = Point::ALL.iter().map(|point| (*point, Victim::Agent, "agent_killed_at"));
    let vmm = Point::ALL.iter().filter(|point| has_vmm(**point)).map(|point| (*point, Victim::Vmm, "vmm_killed_at"));
    let power = power_points().iter().map(|point| (*point, Victim::Power, "power_cut_at"));
    agent.chain(vmm).chain(power).map(|(point, victim, what)| {
        let name = format!("faults::{what}_{}", point.as_str());
        let test = name.clone();
        (name, Box::new(move |stack: &Stack| one(stack, &test, point, victim)) as Run)
    })
}

const SETTLED: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Agent,
    Vmm,
    /// Of the store, with agent and all VMMs on it.
    Power,
}

/// The command during which a step is passed. A full match: a new step must be put in its place here.
fn operation(point: Point) -> &'static str {
    use Point as P;
    match point {
        P::CreateBegun
        | P::CreateMoved
        | P::CreateLinked
        | P::CreateLoaded
        | P::CreateRunning
        | P::CreateInitialized
        | P::CreateNoted => "create",
        P::PauseRequested
        | P::PauseFrozen
        | P::PauseWritten
        | P::PauseSealed
        | P::PauseCommitted
        | P::PauseNoted
        | P::PauseReleased => "pause",
        P::ResumeRequested
        | P::ResumeLinked
        | P::ResumeLoaded
        | P::ResumeRunning
        | P::ResumeInitialized
        | P::ResumeNoted => "resume",
        P::SnapshotFrozen | P::SnapshotWritten | P::SnapshotThawed | P::SnapshotSealed | P::SnapshotCommitted => {
            "snapshot"
        }
        P::ForkCaptured | P::ForkFirstChild | P::ForkMade => "fork",
    }
}

/// Returns the steps around every promise; all of them with WRENN_TEST_POWER=all (five minutes more).
fn power_points() -> &'static [Point] {
    use Point as P;
    const AROUND: [Point; 10] = [
        P::CreateNoted,
        P::PauseWritten,
        P::PauseSealed,
        P::PauseCommitted,
        P::PauseNoted,
        P::ResumeInitialized,
        P::ResumeNoted,
        P::SnapshotSealed,
        P::SnapshotCommitted,
        P::ForkMade,
    ];
    if std::env::var("WRENN_TEST_POWER").is_ok_and(|value| value == "all") { Point::ALL } else { &AROUND }
}

/// Whether there is a VMM to be killed at this step. A full match: see `operation`.
fn has_vmm(point: Point) -> bool {
    use Point as P;
    match point {
        P::CreateMoved | P::CreateLoaded | P::CreateRunning | P::CreateInitialized | P::CreateNoted => true,
        P::PauseRequested | P::PauseFrozen | P::PauseWritten | P::PauseSealed | P::PauseCommitted | P::PauseNoted => {
            true
        }
        P::ResumeLoaded | P::ResumeRunning | P::ResumeInitialized | P::ResumeNoted => true,
        P::SnapshotFrozen | P::SnapshotWritten | P::SnapshotThawed | P::SnapshotSealed => true,
        P::CreateBegun | P::CreateLinked | P::PauseReleased | P::ResumeRequested | P::ResumeLinked => false,
        // The source's VMM is no part of these any more.
        P::SnapshotCommitted | P::ForkCaptured | P::ForkFirstChild | P::ForkMade => false,
    }
}

fn one(stack: &Stack, test: &str, point: Point, victim: Victim) -> anyhow::Result<()> {
    if victim == Victim::Power && !stack.store().join("../store.xfs").exists() {
        return skip(test, "power", "the store lies on this machine's own disk, whose power is not ours to cut");
    }
    let what = format!("{victim:?} at {}", point.as_str());
    let tried = match operation(point) {
        "create" => create(stack, point, victim),
        other => change(stack, point, victim, other),
    };
    tried.with_context(|| what)
}

/// Arms the fault, does the work, and waits until the fault has struck and the agent is back.
fn strike(stack: &Stack, point: Point, victim: Victim, work: &[&str]) -> anyhow::Result<Answer> {
    let file = stack.dir().join("wrenn/fault");
    let pid = stack.service_pid("agent")?;
    let word = match victim {
        Victim::Agent => "agent",
        Victim::Vmm => "vmm",
        Victim::Power => "power",
    };
    std::fs::write(&file, format!("{word} {}", point.as_str()))?;
    // Whether the command itself succeeds is not the question. A spare is there only a moment after the one before was taken.
    let again = point == Point::CreateMoved;
    let answer = stack.wrenn(work)?;
    wait_until("the fault strikes", SETTLED, || {
        if again && file.exists() {
            // Until it runs: many at once would leave no turn for the making of spares.
            let _ = stack.wrenn(&["capsule", "create"])?;
        }
        Ok(!file.exists())
    })?;
    if victim != Victim::Vmm {
        wait_until("the agent is back", SETTLED, || Ok(stack.service_pid("agent").is_ok_and(|now| now != pid)))?;
    }
    Ok(answer)
}

fn create(stack: &Stack, point: Point, victim: Victim) -> anyhow::Result<()> {
    let before: Vec<String> = ids(stack)?;
    let answer = strike(stack, point, victim, &["--json", "capsule", "create", "--no-wait"])?.ok()?.json()?;
    // One that ended in error is not listed, and its disk may be kept.
    let mut made = vec![answer["id"].as_str().context("no id")?.to_owned()];
    wait_until("the creates are settled", SETTLED, || {
        for id in ids(stack)? {
            if !before.contains(&id) && !made.contains(&id) {
                made.push(id);
            }
        }
        made.iter()
            .try_fold(true, |settled, id| Ok(settled && matches!(stack.status(id)?.as_str(), "running" | "error")))
    })?;
    for id in made {
        if victim == Victim::Agent {
            ensure!(stack.status(&id)? == "running", "a create that was accepted comes about");
            ensure!(stack.exec(&id, &["echo", "here"])? == "here");
        }
        stack.remove(&id)?;
    }
    Ok(())
}

fn ids(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let all = stack.wrenn(&["--json", "capsule", "list"])?.ok()?.json()?;
    Ok(all.as_array().into_iter().flatten().filter_map(|c| c["id"].as_str().map(str::to_owned)).collect())
}

/// Lists the directories of sandboxes in the host's store.
fn stored(stack: &Stack) -> anyhow::Result<Vec<std::ffi::OsString>> {
    Ok(std::fs::read_dir(stack.store().join("sandboxes"))?.flatten().map(|entry| entry.file_name()).collect())
}

fn change(stack: &Stack, point: Point, victim: Victim, operation: &str) -> anyhow::Result<()> {
    // What another test left is that one's failure.
    let before = stored(stack)?;
    let id = stack.capsule(&["--memory", "192"])?;
    let mark = format!("{}-{victim:?}", point.as_str());
    let both = format!("echo {mark} > /dev/shm/mark; echo {mark} > mark; sync");
    stack.exec(&id, &["sh", "-c", &both])?;
    let name = format!("t-{}-{victim:?}", point.as_str().replace('_', "-")).to_lowercase();
    let known = ids(stack)?;
    let work: Vec<&str> = match operation {
        "pause" => vec!["capsule", "pause", &id],
        "resume" => {
            stack.wrenn(&["capsule", "pause", &id])?.ok()?;
            vec!["capsule", "resume", &id]
        }
        "snapshot" => vec!["capsule", "snapshot", &id, &name],
        "fork" => vec!["capsule", "fork", &id, "-n", "2"],
        other => bail!("no command for {other}"),
    };
    strike(stack, point, victim, &work)?;
    let mut last = String::new();
    wait_until("it is settled", SETTLED, || {
        last = stack.status(&id)?;
        Ok(matches!(last.as_str(), "running" | "paused" | "error"))
    })?;
    if victim == Victim::Agent {
        ensure!(last != "error", "its VM was alive: {}", stack.wrenn(&["--json", "capsule", "get", &id])?.text());
    }
    // Whatever it is now, it comes back; a crash may be seen only now.
    wait_until("it runs again", SETTLED, || {
        let resumed = stack.wrenn(&["capsule", "resume", &id])?;
        ensure!(resumed.code == Some(0), "{resumed:?}");
        ensure!(stack.exec(&id, &["echo", "here"])? == "here");
        Ok(true)
    })?;
    let capsule = stack.wrenn(&["--json", "capsule", "get", &id])?.ok()?.json()?;
    let from_disk = capsule["metadata"]["resumed_from"] == "disk";
    ensure!(!from_disk || victim != Victim::Agent, "memory was lost although only the agent died");
    ensure!(stack.exec(&id, &["cat", "mark"])? == mark, "the disk is not what it was");
    if !from_disk {
        ensure!(stack.exec(&id, &["cat", "/dev/shm/mark"])? == mark, "the memory is not what it was");
    }
    // Copies that came about are whole.
    for child in ids(stack)?.iter().filter(|child| !known.contains(child)) {
        wait_until("a child is settled", SETTLED, || {
            Ok(matches!(stack.status(child)?.as_str(), "running" | "error" | "stopped"))
        })?;
        if stack.status(child)? == "running" {
            ensure!(stack.exec(child, &["cat", "/dev/shm/mark", "mark"])? == format!("{mark}\n{mark}"));
        }
        stack.remove(child)?;
    }
    let templates = stack.wrenn(&["--json", "template", "list"])?.ok()?.json()?;
    if templates.as_array().into_iter().flatten().any(|t| t["name"] == name.as_str()) {
        let copy = stack.capsule(&[&name])?;
        ensure!(stack.exec(&copy, &["cat", "/dev/shm/mark", "mark"])? == format!("{mark}\n{mark}"));
        stack.remove(&copy)?;
        stack.wrenn(&["template", "rm", &name])?.ok()?;
    }
    stack.remove(&id)?;
    let left: Vec<_> = stored(stack)?.into_iter().filter(|name| !before.contains(name)).collect();
    ensure!(left.is_empty(), "left in the store: {left:?}");
    Ok(())
}
