//! State of a simulated host: its sandboxes, snapshots and how it behaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use connectrpc::ErrorCode;
use tokio::sync::watch;
use wrenn_contract::proto::wrenn::host::v1::{CreateSandboxRequest, MetricPoint, SandboxPhase, SandboxReport};

use super::guest::{GuestProcess, Home};

/// Token every simulated host expects.
pub const TOKEN: &str = "the-token-of-test-hosts";

/// What runs in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    /// Nothing: the relay says the guest does not answer. Enough for life and death.
    None,
    /// A real envd, this binary.
    Envd(PathBuf),
}

/// Failures on purpose. Read at each call.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Added before each RPC answer.
    pub delay: Duration,
    /// Refuse CreateSandbox with this code.
    pub refuse_create: Option<ErrorCode>,
    /// Refuse DeleteSandbox with this code.
    pub refuse_delete: Option<ErrorCode>,
    /// Accept creates but let them stay in STARTING.
    pub hold_starts: bool,
    /// Accept creates, then report FAILED with this code and text.
    pub fail_starts: Option<(String, String)>,
    /// Accept deletes but let them stay in STOPPING.
    pub hold_deletes: bool,
    /// Refuse PauseSandbox with this code.
    pub refuse_pause: Option<ErrorCode>,
    /// Accept pauses but let them stay in PAUSING.
    pub hold_pauses: bool,
    /// Accept pauses, then report RUNNING with this code and text.
    pub fail_pauses: Option<(String, String)>,
    /// Refuse ResumeSandbox with this code.
    pub refuse_resume: Option<ErrorCode>,
    /// Accept resumes but let them stay in RESUMING.
    pub hold_resumes: bool,
    /// Accept resumes, then report what was before (PAUSED or CRASHED) with this code and text.
    pub fail_resumes: Option<(String, String)>,
    /// Refuse SnapshotSandbox with this code.
    pub refuse_snapshot: Option<ErrorCode>,
    /// Refuse DeleteSnapshot with this code.
    pub refuse_discard: Option<ErrorCode>,
    /// Refuse ForkSandbox with this code.
    pub refuse_fork: Option<ErrorCode>,
    /// Let SnapshotSandbox and ForkSandbox wait before they capture anything.
    pub hold_captures: bool,
    /// Let this many children of each fork fail.
    pub fail_children: usize,
    /// Free memory the host claims to have in all, MiB; 0 = 65536.
    pub memory_mib: u64,
    /// What GetMetrics knows of every sandbox.
    pub points: Vec<MetricPoint>,
    pub disk_bytes: u64,
}

pub(super) struct Sim {
    pub(super) report: SandboxReport,
    /// What was asked for at its birth.
    pub(super) wish: CreateSandboxRequest,
    pub(super) guest: Option<GuestProcess>,
    /// Its disk, while no process of its own holds it.
    pub(super) home: Option<Home>,
    /// Newest pause or resume that was accepted.
    pub(super) operation: u64,
    /// The phase a resume comes from.
    pub(super) resumed_from: Option<SandboxPhase>,
}

/// A snapshot on the simulated disk.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) vcpus: u32,
    pub(super) memory_mib: u32,
    pub(super) disk_mib: u32,
    pub(super) home: Option<Home>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) sandboxes: BTreeMap<String, Sim>,
    pub(super) tombstones: BTreeSet<String>,
    pub(super) creates: BTreeMap<String, u32>,
    pub(super) deletes: BTreeMap<String, u32>,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    /// Calls by name of the RPC and of what it is about.
    pub(super) calls: BTreeMap<(&'static str, String), u32>,
}

pub(super) struct Inner {
    pub(super) guest: Guest,
    pub(super) state: Mutex<State>,
    pub(super) behaviour: Mutex<Behaviour>,
    pub(super) revision: watch::Sender<u64>,
}

impl Sim {
    /// One that starts over `home`, or over a fresh disk.
    pub(super) fn new(wish: CreateSandboxRequest, home: Option<Home>) -> Self {
        let report = SandboxReport {
            sandbox_id: wish.sandbox_id.clone(),
            generation: 1,
            phase: SandboxPhase::Starting.into(),
            template: wish.template.clone(),
            vcpus: wish.vcpus,
            memory_mib: wish.memory_mib,
            disk_mib: wish.disk_mib,
            timeout_sec: wish.timeout_sec,
            ..Default::default()
        };
        Self { report, wish, guest: None, home, operation: 0, resumed_from: None }
    }
}

impl Inner {
    pub(super) fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().expect("no panic while held").clone()
    }

    /// Changes one sandbox and makes the change known. Answers its report.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Sim)) -> Option<SandboxReport> {
        let mut state = self.state.lock().expect("no panic while held");
        let sim = state.sandboxes.get_mut(id)?;
        change(sim);
        sim.report.generation += 1;
        let report = sim.report.clone();
        state.revision += 1;
        self.revision.send_replace(state.revision);
        Some(report)
    }

    pub(super) fn finish_delete(&self, id: &str) -> Option<SandboxReport> {
        self.change(id, |sim| {
            (sim.guest, sim.home) = (None, None);
            sim.report.phase = SandboxPhase::Gone.into();
        })
    }

    /// Counts a call and answers how this host behaves now.
    pub(super) fn called(&self, rpc: &'static str, id: &str) -> Behaviour {
        *self.state.lock().expect("no panic while held").calls.entry((rpc, id.to_owned())).or_default() += 1;
        self.behaviour()
    }
}
