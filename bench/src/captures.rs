//! Pause, snapshot and fork, a burst of creates, and what capsules cost in memory, each against the bare VMM or the file system
//! doing the least that must be done.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::Bench;
use crate::bare::{Bare, Saved};
use crate::create::capture_of;
use crate::report::{Bound, Report, percentile_ms};
use crate::rest::Rest;

const MEMORY_MIB: u32 = 512;
/// MiB a guest has written before it is captured.
const DIRTY_MIB: [usize; 3] = [0, 64, 256];
/// A guest that is paused has had nothing to do for a while, under Wrenn and under the bare VMM.
const IDLE: Duration = Duration::from_secs(2);
/// Children of one fork, and capsules of one burst.
const MANY: usize = 20;

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    bench.stack.wait_prepared()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let bare = Bare::new(&bench.stack.store(), &bench.builds, MEMORY_MIB).await?;
        let (_, machine) = bare.boot().await?;
        let alone = pss_mib(machine.record().process.pid)?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let saved = bare.save(&machine).await?;
        still(bench, report, &bare, &saved).await?;
        many(bench, report, &bare, &saved, alone).await
    })
}

/// How long a guest stands still for a snapshot, and how long a pause takes, by how much the guest has written.
async fn still(bench: &Bench<'_>, report: &mut Report, bare: &Bare, saved: &Saved) -> anyhow::Result<()> {
    let runs = bench.runs(10);
    let mut rest = Rest::connect(bench.stack).await?;
    let token = ("authorization", format!("Bearer {}", bench.stack.host_token()?));
    let mut host = Rest::with(bench.stack.agent_url().trim_start_matches("http://"), Some(token)).await?;
    // MiB written, and how long a guest stood still for them, with the floor.
    let mut ways = Vec::new();
    for dirty in DIRTY_MIB {
        let id = rest.create_until_exec().await?;
        let fill = format!(
            "sudo mount -o remount,size=320m /dev/shm && head -c {dirty}M /dev/zero | tr '\\0' x > /dev/shm/dirt && sync"
        );
        let (mut stood, mut stood_floor, mut paused, mut paused_floor) = (vec![], vec![], vec![], vec![]);
        let mut paused_bare = vec![];
        let mut all = 0;
        for _ in 0..runs {
            // Anew each time: what was written before the last pause is in its capture already.
            rest.exec(&id, "/bin/sh", &["-c", &fill]).await?;
            let devices = bare.save_devices(saved).await?;
            // What the guest's own system has written must be saved too.
            all = written_mib(bench, &id)?;
            let (written, safe) = bare.write(all)?;
            stood_floor.push(devices + written);
            paused_floor.push(devices + safe);
            stood.push(snapshot(&mut host, &id).await?);
            tokio::time::sleep(IDLE).await;
            let begin = Instant::now();
            rest.pause(&id).await?;
            paused.push(begin.elapsed());
            let mut back = bare.come_back(&capture_of(bench, &id)?).await?;
            back.envd.run("/bin/sh", &["-c", &fill]).await?;
            tokio::time::sleep(IDLE).await;
            paused_bare.push(bare.pause(&mut back).await?);
            bare.end_back(back).await?;
            rest.resume_until_exec(&id).await?;
        }
        let name = format!(
            "snapshot, guest stands still, {dirty} MiB written ({all} with its system's), p50; floor: device state and a file of that size"
        );
        let (value, floor) = (percentile_ms(&stood, 50), percentile_ms(&stood_floor, 50));
        report.against(&name, "ms", value, floor, Some(Bound::AtMost(2.0)), runs);
        ways.push((all as f64, value, floor));
        // The first is information, not judged: no pause can reach it, since nobody asks for it and the guest has no part in it.
        // See docs/decisions/0007-spares.md.
        let floors = [
            ("the least there is: device state and a synced file of that size", &paused_floor, None),
            (
                "floor: the bare VMM, the same guest written down with the same care",
                &paused_bare,
                Some(Bound::AtMost(2.0)),
            ),
        ];
        for (what, floor, bound) in floors {
            let name = format!("pause, {dirty} MiB written ({all} with its system's), p50; {what}");
            let (value, floor) = (percentile_ms(&paused, 50), percentile_ms(floor, 50));
            report.against(&name, "ms", value, floor, bound, runs);
        }
        rest.remove(&id).await?;
    }
    if let [(little, short, short_floor), .., (much, long, long_floor)] = ways[..] {
        let more = much - little;
        let name = "snapshot, guest stands still, each further MiB written; floor: a file, each further MiB";
        report.against(name, "ms", (long - short) / more, (long_floor - short_floor) / more, None, runs);
    }
    Ok(())
}

/// Asks the host for a snapshot and has it removed again; how long the guest stood still.
async fn snapshot(host: &mut Rest, id: &str) -> anyhow::Result<Duration> {
    const SERVICE: &str = "/wrenn.host.v1.HostService";
    let name = format!("{:032x}", std::time::UNIX_EPOCH.elapsed()?.as_nanos());
    let made = host
        .json(Method::POST, &format!("{SERVICE}/SnapshotSandbox"), json!({"sandboxId": id, "snapshotId": name}))
        .await?;
    host.json(Method::POST, &format!("{SERVICE}/DeleteSnapshot"), json!({"snapshotId": name})).await?;
    Ok(Duration::from_micros(made["pausedUs"].as_u64().context("no pausedUs")?))
}

/// Many at once: forks of one, creates in a burst, and their memory.
async fn many(bench: &Bench<'_>, report: &mut Report, bare: &Bare, saved: &Saved, alone: f64) -> anyhow::Result<()> {
    let count = if bench.quick { 4 } else { MANY };
    let begin = Instant::now();
    let restored = try_join_all((0..count).map(|_| bare.restore(saved))).await?;
    let floor = begin.elapsed().as_secs_f64() * 1000.0;
    for (_, machine) in restored {
        Bare::end(machine).await?;
    }
    let mut rest = Rest::connect(bench.stack).await?;
    let source = rest.create_until_exec().await?;
    let one = sandboxes_pss_mib(bench)?;
    let begin = Instant::now();
    let made = rest.json(Method::POST, &format!("/v1/capsules/{source}/fork"), json!({"count": count})).await?;
    let children: Vec<String> = made.as_array().context("no array")?.iter().filter_map(id_of).collect();
    ensure!(children.len() == count, "{made}");
    ready_all(bench, &children).await?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    let name = format!("{count} forks of one, all have run a command; floor: the bare VMM, {count} restored at once");
    report.against(&name, "ms", took, floor, None, 1);
    for id in &children {
        rest.remove(id).await?;
    }
    let begin = Instant::now();
    let mut burst = Vec::new();
    for _ in 0..count {
        burst.push(rest.create().await?);
    }
    ready_all(bench, &burst).await?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    let name =
        format!("burst of {count} creates, all have run a command; floor: the bare VMM, {count} restored at once");
    report.against(&name, "ms", took, floor, None, 1);
    // How it grows, looked at from its end.
    for left in [count, count / 2, count / 4] {
        for id in burst.drain(left..) {
            rest.remove(&id).await?;
        }
        let extra = (sandboxes_pss_mib(bench)? - one) / left as f64;
        let name = format!(
            "memory of one more capsule after its first command, 1 to {} of them; floor: the bare VMM, booted",
            left + 1
        );
        report.against(&name, "MiB", extra, alone, None, left);
    }
    for id in burst.iter().chain([&source]) {
        rest.remove(id).await?;
    }
    Ok(())
}

fn id_of(one: &Value) -> Option<String> {
    let capsule = one.get("capsule").unwrap_or(one);
    capsule["id"].as_str().map(str::to_owned)
}

/// Each over its own connection, as many clients would.
async fn ready_all(bench: &Bench<'_>, ids: &[String]) -> anyhow::Result<()> {
    try_join_all(ids.iter().map(|id| async move { Rest::connect(bench.stack).await?.ready(id).await })).await?;
    Ok(())
}

/// Memory of all running sandboxes' VMMs, shared pages counted in parts.
fn sandboxes_pss_mib(bench: &Bench) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for entry in std::fs::read_dir(bench.stack.store().join("sandboxes"))?.flatten() {
        let ledger: Value = serde_json::from_slice(&std::fs::read(entry.path().join("ledger.json"))?)?;
        let Some(pid) = ledger["machine"]["process"]["pid"].as_i64() else { continue };
        sum += pss_mib(i32::try_from(pid)?)?;
    }
    Ok(sum)
}

/// MiB of its memory a capsule's guest has written since it was started, rounded up.
fn written_mib(bench: &Bench, id: &str) -> anyhow::Result<usize> {
    let place = bench.stack.store().join("sandboxes").join(id);
    let ledger: Value = serde_json::from_slice(&std::fs::read(place.join("ledger.json"))?)?;
    let pid = ledger["machine"]["process"]["pid"].as_i64().context("it does not run")?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let memory = place.join("memory").display().to_string();
    // One mapping in several pieces.
    let (mut kib, mut is_memory) = (0, false);
    for line in maps.lines() {
        if let Some(anonymous) = line.strip_prefix("Anonymous:").filter(|_| is_memory) {
            kib += anonymous.split_whitespace().next().context("no number")?.parse::<usize>()?;
        } else if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
            is_memory = line.ends_with(&memory);
        }
    }
    Ok(kib.div_ceil(1024))
}

fn pss_mib(pid: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kib / 1024.0)
}
