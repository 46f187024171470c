//! Resident memory of the idle programs.

use anyhow::Context;

use crate::Bench;
use crate::report::{Bound, Report};

/// Runs the section. The stack has just started and has served nothing but its own start.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for (name, service, most) in [("idle agent", "agent", 40.0), ("idle control plane", "control", 60.0)] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", bench.stack.service_pid(service)?))?;
        report.alone(&format!("resident memory, {name}"), "MB", resident_mb(&status)?, Some(Bound::AtMost(most)), 1);
    }
    let id = bench.stack.capsule(&[])?;
    let status = bench.stack.exec(&id, &["sh", "-c", "cat /proc/$(pidof envd)/status"])?;
    report.alone("resident memory, envd", "MB", resident_mb(&status)?, Some(Bound::AtMost(12.0)), 1);
    bench.stack.remove(&id)
}

/// VmRSS in MB (10^6 bytes) of a /proc status file.
fn resident_mb(status: &str) -> anyhow::Result<f64> {
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
