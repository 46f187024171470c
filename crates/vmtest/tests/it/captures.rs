//! Pause, resume, snapshot and fork: what a guest keeps, and what its copies must not share.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use wrenn_vmtest::{Stack, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    ("captures::a_paused_capsule_comes_back_where_it_was", pause_and_resume),
    ("captures::a_pause_ends_what_a_call_it_cut_had_started_and_nothing_detached", command_through_a_pause),
    ("captures::a_template_of_a_running_capsule_has_its_processes", snapshot),
    ("captures::children_of_a_fork_begin_at_one_instant_and_share_no_secret", fork),
    ("captures::many_children_draw_no_random_number_twice", many_forks),
    ("captures::memory_and_disk_survive_cycle_after_cycle", cycles),
    ("captures::an_idle_capsule_is_paused_to_the_second_and_a_used_one_is_not", time_out),
    ("captures::a_crashed_capsule_boots_from_its_disk_and_says_so", crashed),
];

/// Cycles in CI; WRENN_TEST_CYCLES sets another number.
const CYCLES: u32 = 200;
/// Children of one parent in all, so many at a time.
const CHILDREN: usize = 60;
const AT_A_TIME: usize = 20;

/// A megabyte of random bytes that exists in memory only, one on the disk, and a process that counts.
fn fill(stack: &Stack, id: &str) -> anyhow::Result<()> {
    stack.exec(
        id,
        &["sh", "-c", "head -c 1000000 /dev/urandom > /dev/shm/nonce; head -c 1000000 /dev/urandom > nonce; sync"],
    )?;
    let counter = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.1; done";
    stack.wrenn(&["exec", "-d", id, "--", "sh", "-c", counter])?.ok()?;
    wait_until("the counter counts", Duration::from_secs(30), || Ok(count(stack, id)? > 2))
}

fn count(stack: &Stack, id: &str) -> anyhow::Result<u64> {
    stack.exec(id, &["cat", "/dev/shm/count"])?.trim().parse().context("no count")
}

/// Checksums of memory and disk.
fn sums(stack: &Stack, id: &str) -> anyhow::Result<String> {
    stack.exec(id, &["sh", "-c", "sha256sum < /dev/shm/nonce; sha256sum < nonce"])
}

/// Whether the agent holds a copy of what the memory is mapped over: a file without a name.
fn is_ahead(stack: &Stack, id: &str) -> anyhow::Result<bool> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", stack.service_pid("agent")?))?;
    let files = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let files: Vec<_> = files.map(|path| path.display().to_string()).collect();
    Ok(files.iter().any(|path| path.contains(&format!("{id}/#")) && path.ends_with(" (deleted)")))
}

/// MiB of memory that the guest of a paused capsule had in use when it was paused.
fn used_mib(stack: &Stack, id: &str) -> anyhow::Result<u64> {
    let dir = stack.store().join("sandboxes").join(id);
    let manifests = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path().join("manifest.json"));
    let manifest = manifests.filter(|path| path.exists()).last().context("no capture")?;
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest)?)?;
    let used = manifest["used"].as_array().context("nothing used")?;
    Ok(used.iter().filter_map(|part| part[1].as_u64()).sum::<u64>() >> 20)
}

fn pause_and_resume(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    fill(stack, &id)?;
    let (before, counted) = (sums(stack, &id)?, count(stack, &id)?);
    let machine = stack.exec(&id, &["cat", "/etc/machine-id"])?;
    wait_until("its next capture has something to begin with", Duration::from_secs(30), || is_ahead(stack, &id))?;
    stack.wrenn(&["capsule", "pause", &id])?.ok()?;
    ensure!(stack.status(&id)? == "paused");
    let refused = stack.wrenn(&["exec", &id, "--", "true"])?;
    ensure!(refused.code == Some(125) && refused.stderr.contains("paused"), "{refused:?}");
    let used = used_mib(stack, &id)?;
    ensure!((1..=256).contains(&used), "its guest had {used} MiB in use");
    // Again: no error, nothing changes.
    stack.wrenn(&["capsule", "pause", &id])?.ok()?;
    let log = || anyhow::Ok(std::fs::read_to_string(stack.dir().join("log/agent.log"))?);
    let logged = log()?.len();
    stack.wrenn(&["capsule", "resume", &id])?.ok()?;
    ensure!(sums(stack, &id)? == before, "memory or disk changed");
    let now = count(stack, &id)?;
    ensure!(now >= counted && now < counted + 100, "{now} after {counted}: not where it was");
    wait_until("the counter goes on", Duration::from_secs(30), || Ok(count(stack, &id)? > now))?;
    ensure!(stack.exec(&id, &["cat", "/etc/machine-id"])? == machine, "it is still the same machine");
    // Read in there at some moment of the exec, and promised to be within 10 ms of the host's.
    let now_ms = || anyhow::Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis());
    let before = now_ms()?;
    let guest: u128 = stack.exec(&id, &["date", "+%s%3N"])?.trim().parse()?;
    let after = now_ms()?;
    let right = guest + 10 >= before && guest <= after + 10;
    // Or the agent said, since then, that this host was too busy to know.
    let said = || anyhow::Ok(log()?[logged..].contains("clock may be off"));
    ensure!(right || said()?, "{guest} in there, {before} to {after} here");
    stack.remove(&id)
}

fn command_through_a_pause(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let own = "echo begun > /dev/shm/own; sleep 1000";
    let detached = "sleep 3; echo ended > /dev/shm/detached";
    stack.wrenn(&["exec", "-d", &id, "--", "sh", "-c", detached])?.ok()?;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let cut = scope.spawn(|| stack.wrenn(&["exec", &id, "--", "sh", "-c", own]));
        let begun = || Ok(stack.exec(&id, &["sh", "-c", "cat /dev/shm/own 2>/dev/null || true"])? == "begun");
        wait_until("the command runs", Duration::from_secs(30), begun)?;
        stack.wrenn(&["capsule", "pause", &id])?.ok()?;
        let answer = cut.join().map_err(|_| anyhow::anyhow!("the command line died"))??;
        ensure!(answer.code == Some(125) && answer.stderr.contains("was paused"), "nobody said why: {answer:?}");
        Ok(())
    })?;
    stack.wrenn(&["capsule", "resume", &id])?.ok()?;
    let runs = |what: &str| Ok::<_, anyhow::Error>(stack.wrenn(&["ps", &id])?.ok()?.text().contains(what));
    wait_until("what the cut call had started is ended", Duration::from_secs(30), || Ok(!runs("sleep 1000")?))?;
    wait_until("what was started detached ends in its own time", Duration::from_secs(60), || {
        Ok(stack.exec(&id, &["sh", "-c", "cat /dev/shm/detached 2>/dev/null || true"])? == "ended")
    })?;
    stack.remove(&id)
}

fn snapshot(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    fill(stack, &id)?;
    let before = sums(stack, &id)?;
    stack.wrenn(&["capsule", "snapshot", &id, "kept"])?.ok()?;
    ensure!(stack.status(&id)? == "running");
    let taken = stack.wrenn(&["capsule", "snapshot", &id, "kept"])?;
    ensure!(taken.code == Some(1) && taken.stderr.contains("kept"), "{taken:?}");
    let counted = count(stack, &id)?;
    stack.remove(&id)?;
    let copy = stack.capsule(&["kept", "--disk", "6144"])?;
    ensure!(sums(stack, &copy)? == before, "memory or disk of the template differ");
    let now = count(stack, &copy)?;
    ensure!(now <= counted + 100, "it counts on from the template, not from elsewhere");
    wait_until("its process runs", Duration::from_secs(30), || Ok(count(stack, &copy)? > now))?;
    let size: u64 = stack.exec(&copy, &["sh", "-c", "df -m --output=size / | tail -1"])?.trim().parse()?;
    ensure!((5700..=6144).contains(&size), "the larger disk is seen: {size}");
    // From a paused one as well; and what was made from a template outlives it.
    stack.wrenn(&["capsule", "pause", &copy])?.ok()?;
    stack.wrenn(&["capsule", "snapshot", &copy, "kept-again"])?.ok()?;
    stack.wrenn(&["template", "rm", "kept"])?.ok()?;
    let second = stack.capsule(&["kept-again"])?;
    ensure!(sums(stack, &second)? == before);
    stack.wrenn(&["template", "rm", "kept-again"])?.ok()?;
    ensure!(sums(stack, &second)? == before, "a capsule needs its template no longer");
    let gone = stack.wrenn(&["capsule", "create", "kept"])?;
    ensure!(gone.code == Some(1), "{gone:?}");
    stack.remove(&copy)?;
    stack.remove(&second)
}

fn children(stack: &Stack, id: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let made = stack.wrenn(&["capsule", "fork", id, "-n", &count.to_string()])?.ok()?.text();
    let ids: Vec<String> = made.lines().map(str::to_owned).collect();
    ensure!(ids.len() == count, "{made}");
    Ok(ids)
}

fn fork(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&["--memory", "256"])?;
    fill(stack, &id)?;
    let before = sums(stack, &id)?;
    let ids = children(stack, &id, 3)?;
    let mut own = BTreeSet::new();
    for child in &ids {
        ensure!(sums(stack, child)? == before);
        own.insert(stack.exec(child, &["sh", "-c", "cat /etc/machine-id; hostname; echo $WRENN_SANDBOX_ID"])?);
        stack.exec(child, &["sh", "-c", "echo mine > nonce"])?;
    }
    ensure!(own.len() == ids.len(), "children share an identity: {own:?}");
    ensure!(sums(stack, &id)? == before, "the source was changed by its children");
    let counted = count(stack, &id)?;
    wait_until("the source goes on", Duration::from_secs(30), || Ok(count(stack, &id)? > counted))?;
    // Of a paused one too.
    stack.wrenn(&["capsule", "pause", &id])?.ok()?;
    let late = children(stack, &id, 1)?;
    ensure!(sums(stack, &late[0])? == before);
    ensure!(stack.status(&id)? == "paused");
    ids.iter().chain(&late).chain([&id]).try_for_each(|id| stack.remove(id))
}

/// What a program started in a child draws from every source of randomness there is.
const DRAW: &str = "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/uuid; \
    head -c 16 /dev/random | od -An -tx1 | tr -d ' \\n'; echo; cat /etc/machine-id; \
    python3 -ISc 'import random; print(random.random(), random.getrandbits(128))' ";

fn many_forks(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&["--memory", "192"])?;
    let mut drawn = BTreeSet::new();
    let mut tokens = BTreeSet::new();
    let mut lines = 0;
    for _ in 0..CHILDREN / AT_A_TIME {
        let ids = children(stack, &id, AT_A_TIME)?;
        // Some at the same time: a guest that is emulated takes one core.
        let drawing = &|part: &[String]| -> anyhow::Result<Vec<String>> {
            part.iter().map(|child| stack.exec(child, &["sh", "-c", DRAW])).collect()
        };
        let texts = std::thread::scope(|scope| {
            let parts: Vec<_> = ids.chunks(AT_A_TIME / 4).map(|part| scope.spawn(move || drawing(part))).collect();
            parts.into_iter().map(|part| part.join().expect("it does not panic")).collect::<anyhow::Result<Vec<_>>>()
        })?;
        for text in texts.iter().flatten() {
            lines += text.lines().count();
            drawn.extend(text.lines().map(str::to_owned));
        }
        for child in &ids {
            let ledger = stack.store().join("sandboxes").join(child).join("ledger.json");
            let ledger: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(ledger)?)?;
            tokens.insert(ledger["token"].as_str().context("no token")?.to_owned());
        }
        ids.iter().try_for_each(|id| stack.remove(id))?;
    }
    ensure!(lines == CHILDREN * 5 && drawn.len() == lines, "{} of {lines} values are different", drawn.len());
    ensure!(tokens.len() == CHILDREN, "children share tokens");
    stack.remove(&id)
}

fn cycles(stack: &Stack) -> anyhow::Result<()> {
    let cycles = match std::env::var("WRENN_TEST_CYCLES") {
        Ok(text) => text.parse().context("WRENN_TEST_CYCLES is no number")?,
        Err(_) => CYCLES,
    };
    let mut id = stack.capsule(&["--memory", "192"])?;
    fill(stack, &id)?;
    let before = sums(stack, &id)?;
    for cycle in 0..cycles {
        if cycle % 4 == 3 {
            // The child goes on in the parent's place.
            let child = children(stack, &id, 1)?.remove(0);
            stack.remove(&id)?;
            id = child;
        } else {
            stack.wrenn(&["capsule", "pause", &id])?.ok()?;
            stack.wrenn(&["capsule", "resume", &id])?.ok()?;
        }
        if cycle % 10 == 9 || cycle + 1 == cycles {
            ensure!(sums(stack, &id)? == before, "memory or disk changed by cycle {cycle}");
        }
    }
    let now = count(stack, &id)?;
    wait_until("the counter still counts", Duration::from_secs(30), || Ok(count(stack, &id)? > now))?;
    stack.remove(&id)
}

fn time_out(stack: &Stack) -> anyhow::Result<()> {
    let (idle, used) = (stack.capsule(&["--timeout", "60"])?, stack.capsule(&["--timeout", "60"])?);
    stack.exec(&idle, &["true"])?;
    let quiet_since = Instant::now();
    wait_until("the idle one is paused", Duration::from_secs(75), || {
        if quiet_since.elapsed().as_secs().is_multiple_of(10) {
            stack.wrenn(&["capsule", "ping", &used])?.ok()?;
        }
        Ok(stack.status(&idle)? == "paused")
    })?;
    let after = quiet_since.elapsed().as_secs_f64();
    ensure!((59.0..63.0).contains(&after), "paused after {after} s instead of 60");
    ensure!(stack.status(&used)? == "running", "one that is used must not be paused");
    stack.remove(&idle)?;
    stack.remove(&used)
}

fn crashed(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    stack.exec(&id, &["sh", "-c", "echo kept > file; echo lost > /dev/shm/file; sync"])?;
    let _ = stack.wrenn(&["exec", "-d", &id, "--", "sudo", "sh", "-c", "echo c > /proc/sysrq-trigger"])?;
    wait_until("the crash is seen", Duration::from_secs(60), || Ok(stack.status(&id)? == "error"))?;
    stack.wrenn(&["capsule", "resume", &id])?.ok()?;
    let capsule = stack.wrenn(&["--json", "capsule", "get", &id])?.ok()?.json()?;
    ensure!(capsule["metadata"]["resumed_from"] == "disk", "{capsule}");
    ensure!(stack.exec(&id, &["cat", "file"])? == "kept");
    ensure!(stack.exec(&id, &["sh", "-c", "cat /dev/shm/file 2>/dev/null || echo gone"])? == "gone");
    stack.remove(&id)
}
