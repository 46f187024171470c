//! `wrenn doctor`: can this machine run Wrenn, and if not, what to do. Asks the host agent's own probe for what only it
//! can know (a guest really run under KVM, QEMU, kernel features) and adds ports, images and the control plane.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::api::{Client, Connection};
use crate::dev::layout::{Layout, program};
use crate::output::Output;

/// The KVM probe boots a guest with a deadline of its own; this bounds the whole.
const PROBE_WAIT: Duration = Duration::from_secs(60);
/// MiB of free disk below which a first start would fail: store, image cache and logs.
const DISK_FREE_MIB_MIN: u64 = 8 * 1024;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Data directory of `wrenn dev`.
    #[arg(long, env = "WRENN_DEV_DIR", default_value = ".dev", value_name = "DIR")]
    dir: PathBuf,
    /// Remove what agents left on this machine whose directory is gone. Needs root.
    #[arg(long)]
    fix: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but slower or with less.
    Warning,
    /// Wrenn cannot run like this.
    Failure,
}

/// One thing looked at. The agent's probe prints the same shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    pub check: String,
    pub verdict: Verdict,
    pub detail: String,
    /// Remedy; empty when nothing is wrong.
    #[serde(default)]
    pub remedy: String,
}

impl Finding {
    fn new(check: &str, verdict: Verdict, detail: impl Into<String>, remedy: &str) -> Self {
        Self { check: check.into(), verdict, detail: detail.into(), remedy: remedy.into() }
    }
}

/// Runs every check; exit code 1 when one failed.
///
/// # Errors
/// A check itself could not run.
pub async fn run(args: DoctorArgs, connection: &Connection, output: &Output) -> anyhow::Result<u8> {
    let spinner = output.spinner("looking at this machine (the KVM check runs a small guest)");
    let layout = Layout::new(&args.dir)?;
    let mut findings = Vec::new();
    if args.fix {
        findings.push(remove_leftovers().await);
    }
    findings.extend(host_probe(&layout).await);
    findings.push(disk(&layout));
    findings.push(images(&layout));
    findings.extend(server(connection).await);
    spinner.finish_and_clear();
    let failed = findings.iter().any(|f| f.verdict == Verdict::Failure);
    output.result(&serde_json::json!({"ok": !failed, "findings": findings}), || {
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(u8::from(failed))
}

fn line(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Ok => "ok     ",
        Verdict::Warning => "warning",
        Verdict::Failure => "FAILURE",
    };
    let mut text = format!("{mark}  {:16} {}", finding.check, finding.detail);
    if !finding.remedy.is_empty() {
        text.push_str(&format!("\n         {:16} -> {}", "", finding.remedy));
    }
    text
}

/// Has the host agent remove what no agent owns.
async fn remove_leftovers() -> Finding {
    const CHECK: &str = "fix";
    let agent = match program("wrenn-agent") {
        Ok(agent) => agent,
        Err(error) => return Finding::new(CHECK, Verdict::Failure, error.to_string(), "run `make build`"),
    };
    let mut command = tokio::process::Command::new(&agent);
    command.arg("remove-leftovers").kill_on_drop(true);
    let printed = match tokio::time::timeout(PROBE_WAIT, command.output()).await {
        Err(_) => {
            let detail = format!("removing did not end within {} s", PROBE_WAIT.as_secs());
            return Finding::new(CHECK, Verdict::Failure, detail, "look at `wrenn-agent remove-leftovers`");
        }
        Ok(Err(error)) => return Finding::new(CHECK, Verdict::Failure, error.to_string(), "run `make build`"),
        Ok(Ok(printed)) => printed,
    };
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
    match lines(&printed.stdout) {
        removed if !printed.status.success() => {
            Finding::new(CHECK, Verdict::Failure, format!("{removed} {}", lines(&printed.stderr)), "run it as root")
        }
        removed if removed.is_empty() => Finding::new(CHECK, Verdict::Ok, "nothing was left to remove", ""),
        removed => Finding::new(CHECK, Verdict::Ok, removed, ""),
    }
}

async fn host_probe(layout: &Layout) -> Vec<Finding> {
    const CHECK: &str = "host agent";
    let agent = match program("wrenn-agent") {
        Ok(agent) => agent,
        Err(error) => return vec![Finding::new(CHECK, Verdict::Failure, error.to_string(), "run `make build`")],
    };
    let mut command = tokio::process::Command::new(&agent);
    command.args(["probe", "--json"]).env("WRENN_DIR", &layout.wrenn).kill_on_drop(true);
    let ended = tokio::time::timeout(PROBE_WAIT, command.output()).await;
    let printed = match ended {
        Err(_) => {
            let detail = format!("its probe did not end within {} s", PROBE_WAIT.as_secs());
            return vec![Finding::new(CHECK, Verdict::Failure, detail, "look at `wrenn-agent probe`")];
        }
        Ok(Err(error)) => {
            return vec![Finding::new(CHECK, Verdict::Failure, error.to_string(), "run `make build`")];
        }
        Ok(Ok(printed)) => printed,
    };
    serde_json::from_slice(&printed.stdout).unwrap_or_else(|_| {
        let detail = String::from_utf8_lossy(&printed.stderr).trim().to_owned();
        vec![Finding::new(CHECK, Verdict::Failure, detail, "look at `wrenn-agent probe`")]
    })
}

fn disk(layout: &Layout) -> Finding {
    const CHECK: &str = "disk";
    let existing = layout.root.ancestors().find(|p| p.exists()).unwrap_or(&layout.root);
    match nix::sys::statvfs::statvfs(existing) {
        Err(error) => Finding::new(CHECK, Verdict::Failure, error.to_string(), "choose another --dir"),
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size() / (1024 * 1024);
            let detail = format!("{free} MiB free at {}", existing.display());
            if free < DISK_FREE_MIB_MIN {
                let remedy = format!("free at least {DISK_FREE_MIB_MIN} MiB or set WRENN_DEV_DIR to a larger disk");
                return Finding::new(CHECK, Verdict::Failure, detail, &remedy);
            }
            Finding::new(CHECK, Verdict::Ok, detail, "")
        }
    }
}

fn images(layout: &Layout) -> Finding {
    const CHECK: &str = "guest images";
    let missing: Vec<_> = layout.guest_parts().into_iter().filter(|(_, found)| !found).map(|(name, _)| name).collect();
    if missing.is_empty() {
        return Finding::new(CHECK, Verdict::Ok, format!("kernel and minimal image in {}", layout.guest.display()), "");
    }
    let detail = format!("{} missing in {}", missing.join(" and "), layout.guest.display());
    Finding::new(CHECK, Verdict::Failure, detail, "run `make images`")
}

/// A reachable control plane, or free ports for one.
async fn server(connection: &Connection) -> Vec<Finding> {
    let reachable = match Client::new(connection) {
        Ok(client) => client.health().await,
        Err(error) => Err(error),
    };
    if reachable.is_ok() {
        return vec![Finding::new("control plane", Verdict::Ok, format!("answers at {}", connection.base_url), "")];
    }
    [8000u16, 50051]
        .into_iter()
        .map(|port| match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => Finding::new("port", Verdict::Ok, format!("{port} is free"), ""),
            Err(error) => Finding::new(
                "port",
                Verdict::Warning,
                format!("{port}: {error}"),
                "end what listens there, or start with --listen and --agent-listen",
            ),
        })
        .collect()
}
