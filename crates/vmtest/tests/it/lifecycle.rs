//! A capsule from create to delete.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use wrenn_vmtest::{Stack, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    ("lifecycle::a_capsule_is_created_listed_pinged_and_removed_without_a_trace", whole_life),
    ("lifecycle::the_guest_sees_the_size_that_was_asked_for", sizes),
    ("lifecycle::capsules_created_at_once_are_all_there_and_apart", at_once),
    ("lifecycle::a_guest_that_dies_is_an_error_with_its_reason", death),
    ("lifecycle::absurd_wishes_are_refused_by_name", absurd),
    ("lifecycle::doctor_finds_this_machine_usable", doctor),
];

fn whole_life(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&["-m", "purpose=test"])?;
    // Its own VMM: others are made ahead of time and come and go.
    let path = stack.store().join("sandboxes").join(&id);
    let ledger: serde_json::Value = serde_json::from_slice(&std::fs::read(path.join("ledger.json"))?)?;
    let vmm = Path::new("/proc").join(ledger["machine"]["process"]["pid"].to_string());
    ensure!(vmm.exists(), "its VMM: {ledger}");
    let listed = stack.wrenn(&["--json", "capsule", "list"])?.ok()?.json()?;
    let mine = listed.as_array().and_then(|all| all.iter().find(|c| c["id"] == id.as_str())).cloned();
    let mine = mine.unwrap_or_default();
    ensure!(mine["status"] == "running" && mine["metadata"]["purpose"] == "test", "{listed}");
    for version in ["kernel_version", "vmm_version", "agent_version", "envd_version"] {
        ensure!(mine["metadata"][version].is_string(), "no {version} in {mine}");
    }
    stack.wrenn(&["capsule", "ping", &id])?.ok()?;
    let templates = stack.wrenn(&["--json", "template", "list"])?.ok()?.json()?;
    ensure!(templates.as_array().is_some_and(|t| t.iter().any(|t| t["name"] == "minimal")), "{templates}");
    stack.remove(&id)?;
    // Again: repeating a delete is no error.
    stack.remove(&id)?;
    ensure!(stack.status(&id)? == "stopped");
    ensure!(!vmm.exists() && !path.exists(), "left: {} or {}", vmm.display(), path.display());
    Ok(())
}

fn sizes(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&["--vcpus", "2", "--memory", "384", "--disk", "7168"])?;
    let seen = stack.exec(
        &id,
        &["sh", "-c", "nproc; awk '/MemTotal/{print int($2/1024)}' /proc/meminfo; df -m --output=size / | tail -1"],
    )?;
    let numbers: Vec<u64> = seen.lines().map(|l| l.trim().parse()).collect::<Result<_, _>>()?;
    ensure!(numbers[0] == 2, "{seen}");
    ensure!((300..=384).contains(&numbers[1]), "{seen}");
    // ext4 keeps a few per cent for itself.
    ensure!((6700..=7168).contains(&numbers[2]), "{seen}");
    // One that counts ticks loses time whenever this host is busy.
    let clock = stack.exec(&id, &["cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource"])?;
    ensure!(["tsc", "kvm-clock"].contains(&clock.as_str()), "its clock is {clock}");
    stack.remove(&id)
}

fn at_once(stack: &Stack) -> anyhow::Result<()> {
    let ids: Vec<String> = std::thread::scope(|scope| {
        let creates: Vec<_> = (0..3).map(|_| scope.spawn(|| stack.capsule(&["--memory", "256"]))).collect();
        creates
            .into_iter()
            .map(|c| c.join().map_err(|_| anyhow::anyhow!("a create died"))?)
            .collect::<anyhow::Result<_>>()
    })?;
    for (number, id) in ids.iter().enumerate() {
        stack.exec(id, &["sh", "-c", &format!("echo {number} > who")])?;
    }
    for (number, id) in ids.iter().enumerate() {
        ensure!(stack.exec(id, &["cat", "who"])? == number.to_string());
    }
    let machine_ids: std::collections::BTreeSet<_> =
        ids.iter().map(|id| stack.exec(id, &["cat", "/etc/machine-id"])).collect::<anyhow::Result<_>>()?;
    ensure!(machine_ids.len() == ids.len(), "machine ids repeat");
    ids.iter().try_for_each(|id| stack.remove(id))
}

fn death(stack: &Stack) -> anyhow::Result<()> {
    let id = stack.capsule(&[])?;
    let _ = stack.wrenn(&["exec", "-d", &id, "--", "sudo", "sh", "-c", "echo c > /proc/sysrq-trigger"])?;
    wait_until("the crash is seen", Duration::from_secs(60), || Ok(stack.status(&id)? == "error"))?;
    let capsule = stack.wrenn(&["--json", "capsule", "get", &id])?.ok()?.json()?;
    ensure!(capsule["error"].as_str().is_some_and(|e| !e.is_empty()), "{capsule}");
    let exec = stack.wrenn(&["exec", &id, "--", "true"])?;
    ensure!(exec.code == Some(125), "{exec:?}");
    stack.remove(&id)
}

fn absurd(stack: &Stack) -> anyhow::Result<()> {
    for (args, word) in [
        (vec!["--vcpus", "-1"], "vcpus"),
        (vec!["--vcpus", "100000"], "vcpus"),
        (vec!["--memory", "1"], "memory_mb"),
        (vec!["--disk", "99999999999"], "disk_size_mb"),
        (vec!["no-such-template"], "no-such-template"),
        (vec!["../../etc"], "template name"),
        (vec!["-m", "kernel_version=1"], "kernel_version"),
    ] {
        let mut all = vec!["capsule", "create"];
        all.extend(args.iter().copied());
        let joined: Vec<String> = join_negative(&all);
        let refused = stack.wrenn(&joined)?;
        ensure!(refused.code == Some(1) && refused.stderr.contains(word), "{args:?}: {refused:?}");
    }
    Ok(())
}

/// `--vcpus -1` must reach the server as `--vcpus=-1`: a value that begins with a dash looks like an option.
fn join_negative(args: &[&str]) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for arg in args {
        match joined.last_mut() {
            Some(last) if arg.starts_with('-') && arg[1..].parse::<u64>().is_ok() => last.push_str(&format!("={arg}")),
            _ => joined.push((*arg).to_owned()),
        }
    }
    joined
}

fn doctor(stack: &Stack) -> anyhow::Result<()> {
    let found = stack.wrenn(&["--json", "doctor", "--dir", &stack.dir().display().to_string()])?.ok()?.json()?;
    ensure!(found["ok"] == true, "{found}");
    let checks: Vec<_> =
        found["findings"].as_array().into_iter().flatten().filter_map(|f| f["check"].as_str()).collect();
    for needed in ["kvm", "qemu", "disk", "guest images"] {
        ensure!(checks.contains(&needed), "no {needed} in {checks:?}");
    }
    Ok(())
}
