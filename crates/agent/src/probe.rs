//! `wrenn-agent probe`: whether this machine can run guests, each finding with its remedy. `wrenn doctor` shows it.

use std::path::Path;

use serde::Serialize;
use wrenn_vmm::CheckVerdict;

use crate::blocking::blocking;
use crate::config::Config;
use crate::leftovers;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    Warning,
    Failure,
}

/// One thing looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// Advice for the operator; empty when there is nothing to do.
    pub remedy: String,
}

fn finding(check: &'static str, verdict: Verdict, detail: impl Into<String>, remedy: &str) -> Finding {
    Finding { check, verdict, detail: detail.into(), remedy: remedy.to_owned() }
}

/// Looks at everything; changes nothing that stays.
pub async fn run(config: &Config) -> Vec<Finding> {
    let mut findings = vec![privileges()];
    findings.extend(wrenn_vmm::inspect(&config.vmm(&config.dir)).await.into_iter().map(vmm));
    findings.extend(devices());
    findings.push(namespaces(config).await);
    findings.push(forwarding());
    findings.push(memory());
    findings.push(nothing_left().await);
    findings
}

fn privileges() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status
        .lines()
        .find_map(|l| l.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"));
    if root {
        return finding("root", Verdict::Ok, "runs as root", "");
    }
    finding("root", Verdict::Failure, "does not run as root", "run it with sudo: namespaces, taps and mounts need root")
}

fn vmm(check: wrenn_vmm::Check) -> Finding {
    let verdict = match check.verdict {
        CheckVerdict::Ok => Verdict::Ok,
        CheckVerdict::Warning => Verdict::Warning,
        CheckVerdict::Failure => Verdict::Failure,
    };
    finding(check.name, verdict, check.detail, &check.remedy)
}

fn devices() -> Vec<Finding> {
    [
        ("tun", "/dev/net/tun", "load the tun module: `modprobe tun`"),
        ("loop", "/dev/loop-control", "load the loop module: `modprobe loop`"),
        (
            "mkfs.xfs",
            "/usr/sbin/mkfs.xfs",
            "install the Debian package xfsprogs (not needed where the disk is XFS or btrfs)",
        ),
    ]
    .into_iter()
    .map(|(check, path, remedy)| {
        if Path::new(path).exists() {
            finding(check, Verdict::Ok, path, "")
        } else {
            finding(check, Verdict::Failure, format!("{path} is missing"), remedy)
        }
    })
    .collect()
}

/// Makes a namespace with a tap and rules in it, and removes it again.
async fn namespaces(config: &Config) -> Finding {
    const CHECK: &str = "network";
    match crate::network::try_out(config.bounds).await {
        Ok(()) => finding(CHECK, Verdict::Ok, "namespaces, taps and nf_tables work", ""),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(inner) = cause {
                text.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            finding(CHECK, Verdict::Failure, text, "run as root on a kernel with network namespaces, tun and nf_tables")
        }
    }
}

fn forwarding() -> Finding {
    let on = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
    let detail = if on {
        "IPv4 packets are forwarded"
    } else {
        "IPv4 packets are not forwarded; the agent switches it on at its start"
    };
    finding("forwarding", Verdict::Ok, detail, "")
}

/// Finds what agents left whose directory is gone.
async fn nothing_left() -> Finding {
    const CHECK: &str = "leftovers";
    match blocking(leftovers::find).await {
        Ok(found) if found.is_empty() => {
            finding(CHECK, Verdict::Ok, "nothing is left of agents whose directory is gone", "")
        }
        Ok(found) => {
            let named: Vec<String> = found.iter().map(ToString::to_string).collect();
            let detail = format!("left by agents whose directory is gone: {}", named.join("; "));
            finding(CHECK, Verdict::Warning, detail, "run `wrenn doctor --fix` as root to remove all of it")
        }
        Err(error) => {
            finding(CHECK, Verdict::Warning, format!("devices and mounts cannot be listed: {error}"), "run as root")
        }
    }
}

fn memory() -> Finding {
    const ENOUGH_MIB: u64 = 2048;
    let total = crate::host::memory_total_mib();
    if total >= ENOUGH_MIB {
        return finding("memory", Verdict::Ok, format!("{total} MiB"), "");
    }
    finding(
        "memory",
        Verdict::Warning,
        format!("{total} MiB"),
        "use a machine with 2 GiB or more to run several capsules",
    )
}
