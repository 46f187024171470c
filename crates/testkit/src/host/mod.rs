//! A simulated host: the real host contract (HostService and guest relay) over real sockets, a real envd process for
//! each sandbox. Only the VM is missing. It can fail on purpose.
//!
//! Its sandboxes survive [`SimHost::down`] and [`SimHost::up`], as VMs survive their agent.

mod guest;
mod rpc;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectrpc::ErrorCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wrenn_contract::proto::wrenn::host::v1::{SandboxPhase, SandboxReport};

use guest::GuestProcess;
pub use guest::find_envd;

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
    /// Free memory the host claims to have in all, MiB; 0 = 65536.
    pub memory_mib: u64,
}

struct Sim {
    report: SandboxReport,
    guest: Option<GuestProcess>,
}

#[derive(Default)]
struct State {
    revision: u64,
    sandboxes: BTreeMap<String, Sim>,
    tombstones: BTreeSet<String>,
    creates: BTreeMap<String, u32>,
    deletes: BTreeMap<String, u32>,
}

struct Inner {
    guest: Guest,
    state: Mutex<State>,
    behaviour: Mutex<Behaviour>,
    revision: watch::Sender<u64>,
}

/// The host. Dropping it ends its sandboxes.
pub struct SimHost {
    inner: Arc<Inner>,
    addr: SocketAddr,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl SimHost {
    /// Starts one on a free loopback port.
    pub async fn start(guest: Guest) -> Self {
        let inner = Arc::new(Inner {
            guest,
            state: Mutex::default(),
            behaviour: Mutex::default(),
            revision: watch::Sender::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let running = tokio::spawn(server::serve(listener, inner.clone()));
        Self { inner, addr, running: Mutex::new(Some(running)) }
    }

    /// Base URL, as CP_HOST_AGENT_ADDR takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Changes how it fails.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.inner.behaviour.lock().expect("no panic while held"));
    }

    /// The agent is gone: connections break, new ones are refused. Sandboxes live on.
    pub async fn down(&self) {
        let running = self.running.lock().expect("no panic while held").take();
        if let Some(task) = running {
            task.abort();
            let _ = task.await;
        }
    }

    /// The agent is back.
    pub async fn up(&self) {
        let listener = tokio::net::TcpListener::bind(self.addr).await.expect("the port is still ours");
        let task = tokio::spawn(server::serve(listener, self.inner.clone()));
        *self.running.lock().expect("no panic while held") = Some(task);
    }

    /// Phase of a sandbox; none when the host has never had it or forgot it.
    pub fn phase(&self, id: &str) -> Option<SandboxPhase> {
        let state = self.inner.state.lock().expect("no panic while held");
        state.sandboxes.get(id).and_then(|sim| sim.report.phase.as_known())
    }

    /// Ids the host holds that are not gone.
    pub fn living(&self) -> Vec<String> {
        let state = self.inner.state.lock().expect("no panic while held");
        let gone = |sim: &Sim| matches!(sim.report.phase.as_known(), Some(SandboxPhase::Gone | SandboxPhase::Failed));
        state.sandboxes.iter().filter(|(_, sim)| !gone(sim)).map(|(id, _)| id.clone()).collect()
    }

    /// How often CreateSandbox was asked for an id.
    pub fn create_calls(&self, id: &str) -> u32 {
        self.inner.state.lock().expect("no panic while held").creates.get(id).copied().unwrap_or(0)
    }

    /// How often DeleteSandbox was asked for an id.
    pub fn delete_calls(&self, id: &str) -> u32 {
        self.inner.state.lock().expect("no panic while held").deletes.get(id).copied().unwrap_or(0)
    }

    /// Lets sandboxes held in STARTING go on.
    pub fn release_starts(&self) {
        self.behave(|b| b.hold_starts = false);
        let ids = self.held(SandboxPhase::Starting);
        for id in ids {
            tokio::spawn(rpc::boot(self.inner.clone(), id));
        }
    }

    /// Lets sandboxes held in STOPPING go.
    pub fn release_deletes(&self) {
        self.behave(|b| b.hold_deletes = false);
        for id in self.held(SandboxPhase::Stopping) {
            self.inner.finish_delete(&id);
        }
    }

    /// The sandbox's VM ends by itself.
    pub fn crash(&self, id: &str) {
        self.inner.change(id, |sim| {
            sim.guest = None;
            sim.report.phase = SandboxPhase::Crashed.into();
            sim.report.reason = "the virtual machine ended by itself".to_owned();
        });
    }

    /// The host loses all memory of a sandbox (its ledger was lost).
    pub fn forget(&self, id: &str) {
        let mut state = self.inner.state.lock().expect("no panic while held");
        state.sandboxes.remove(id);
        state.revision += 1;
        self.inner.revision.send_replace(state.revision);
    }

    fn held(&self, phase: SandboxPhase) -> Vec<String> {
        let state = self.inner.state.lock().expect("no panic while held");
        let held = |sim: &Sim| sim.report.phase.as_known() == Some(phase);
        state.sandboxes.iter().filter(|(_, sim)| held(sim)).map(|(id, _)| id.clone()).collect()
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        if let Some(task) = self.running.lock().expect("no panic while held").take() {
            task.abort();
        }
        self.inner.state.lock().expect("no panic while held").sandboxes.clear();
    }
}

impl Inner {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().expect("no panic while held").clone()
    }

    /// Changes one sandbox and makes the change known. Answers its report.
    fn change(&self, id: &str, change: impl FnOnce(&mut Sim)) -> Option<SandboxReport> {
        let mut state = self.state.lock().expect("no panic while held");
        let sim = state.sandboxes.get_mut(id)?;
        change(sim);
        sim.report.generation += 1;
        let report = sim.report.clone();
        state.revision += 1;
        self.revision.send_replace(state.revision);
        Some(report)
    }

    fn finish_delete(&self, id: &str) -> Option<SandboxReport> {
        self.change(id, |sim| {
            sim.guest = None;
            sim.report.phase = SandboxPhase::Gone.into();
        })
    }
}
