//! Processes that come along in a capture's memory run in no copy before it is a capsule of its own.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use wrenn_vmtest::{Stack, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    ("copies::processes_that_come_along_draw_no_number_twice_and_write_no_old_time", running_processes),
    ("copies::a_process_of_the_image_itself_stands_still_too", loose_processes),
];

/// Writes the time and a random number, without end and as fast as it can.
const DRAW: &str = r"
import os, time
f = open('/dev/shm/drawn', 'w')
while True:
    print('%.4f' % time.time(), os.urandom(8).hex(), file=f, flush=True)
    time.sleep(0.002)
";
/// Copies of each kind.
const COPIES: usize = 3;
/// What a guest's clock may be off, with room for a busy machine.
const CLOCK_OFF_MAX: f64 = 1.0;

/// A line a process has written: the time, and what it drew.
type Line = (f64, String);

fn lines(stack: &Stack, id: &str) -> anyhow::Result<Vec<Line>> {
    let text = stack.exec(id, &["cat", "/dev/shm/drawn"])?;
    let line = |line: &str| {
        let (time, drawn) = line.split_once(' ')?;
        Some((time.parse().ok()?, drawn.to_owned()))
    };
    // The last one may be half written.
    Ok(text.lines().filter_map(line).filter(|(_, drawn)| drawn.len() == 16).collect())
}

fn unix_now() -> anyhow::Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("a clock before 1970")?.as_secs_f64())
}

/// A process draws through a snapshot, a fork and a pause. Whatever two capsules both have was drawn before they parted.
fn running_processes(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    stack.wrenn(&["exec", "-d", &id, "--", "python3", "-c", DRAW])?.ok()?;
    wait_until("it draws", Duration::from_secs(60), || Ok(lines(stack, &id).is_ok_and(|drawn| drawn.len() > 50)))?;
    stack.wrenn(&["capsule", "snapshot", &id, "drawing"])?.ok()?;
    check_copies(stack, COPIES, || stack.capsule(&["drawing"]).map(|id| vec![id]))?;
    check_copies(stack, 1, || {
        let made = stack.wrenn(&["capsule", "fork", &id, "-n", &COPIES.to_string()])?.ok()?.text();
        Ok(made.lines().map(str::to_owned).collect())
    })?;
    // The one that was captured goes on too, and one that was paused comes back with the right time.
    let before = lines(stack, &id)?.len();
    wait_until("the source draws on", Duration::from_secs(30), || Ok(lines(stack, &id)?.len() > before))?;
    stack.wrenn(&["capsule", "pause", &id])?.ok()?;
    let paused = unix_now()?;
    stack.wrenn(&["capsule", "resume", &id])?.ok()?;
    let resumed_by = unix_now()?;
    wait_until("it draws again", Duration::from_secs(30), || {
        Ok(lines(stack, &id)?.last().is_some_and(|(time, _)| *time > resumed_by))
    })?;
    // Between the pause and the resume no process ran, and none wrote a time from before the pause after it.
    let times: Vec<f64> = lines(stack, &id)?.into_iter().map(|(time, _)| time).collect();
    ensure!(times.is_sorted(), "a time went back");
    ensure!(times.iter().any(|time| *time <= paused + CLOCK_OFF_MAX), "nothing was drawn before the pause");
    stack.remove(&id)?;
    stack.wrenn(&["template", "rm", "drawing"])?.ok()?;
    Ok(())
}

/// Makes copies, lets them draw, and compares what each drew after it had parted from the others.
fn check_copies(stack: &Stack, times: usize, make: impl Fn() -> anyhow::Result<Vec<String>>) -> anyhow::Result<()> {
    let asked = unix_now()?;
    let mut ids = Vec::new();
    for _ in 0..times {
        ids.extend(make()?);
    }
    let mut drawn = Vec::new();
    for id in &ids {
        wait_until("a copy draws", Duration::from_secs(30), || {
            Ok(lines(stack, id)?.last().is_some_and(|(time, _)| *time > asked))
        })?;
        drawn.push(lines(stack, id)?);
    }
    let common = drawn[0].iter().zip(&drawn[1]).take_while(|(a, b)| a == b).count();
    ensure!(common > 0, "copies have nothing in common");
    let captured_by = drawn[0][common - 1].0;
    let mut seen = BTreeSet::new();
    for (id, lines) in ids.iter().zip(&drawn) {
        let after = &lines[common.min(lines.len())..];
        ensure!(!after.is_empty(), "{id} drew nothing of its own");
        for (time, number) in after {
            ensure!(seen.insert(number.clone()), "{number} was drawn twice");
            ensure!(*time + CLOCK_OFF_MAX > asked.min(captured_by), "{id} wrote the time {time}, long before {asked}");
        }
    }
    ids.iter().try_for_each(|id| stack.remove(id))
}

/// A process in the root cgroup, where those are that nobody started through envd.
fn loose_processes(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let move_out = "echo $$ > /sys/fs/cgroup/cgroup.procs; exec python3 -c \"$1\"";
    stack.wrenn(&["exec", "-d", "-u", "root", &id, "--", "sh", "-c", move_out, "sh", DRAW])?.ok()?;
    wait_until("it draws", Duration::from_secs(60), || Ok(lines(stack, &id).is_ok_and(|drawn| drawn.len() > 50)))?;
    check_copies(stack, 1, || {
        let made = stack.wrenn(&["capsule", "fork", &id, "-n", &COPIES.to_string()])?.ok()?.text();
        Ok(made.lines().map(str::to_owned).collect())
    })?;
    stack.remove(&id)
}
