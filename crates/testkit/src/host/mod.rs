//! A simulated host: the real host contract (HostService and guest relay) over real sockets, a real envd process for
//! each sandbox. Only the VM is missing. It can fail on purpose.
//!
//! Its sandboxes survive [`SimHost::down`] and [`SimHost::up`], as VMs survive their agent. A paused guest is a stopped process that
//! keeps its memory; a snapshot or fork copies the guest's disk only, and what is made from it starts anew over that copy.

mod boot;
mod capture;
mod guest;
mod pause;
mod rpc;
mod server;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wrenn_contract::proto::wrenn::host::v1::{CreateSandboxRequest, SandboxPhase, SandboxReport};

use crate::Database;
pub use guest::find_envd;
pub use state::{Behaviour, Guest, TOKEN};
use state::{Inner, Sim};

/// The host. Dropping it ends its sandboxes.
pub struct SimHost {
    inner: Arc<Inner>,
    addr: SocketAddr,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl SimHost {
    /// Starts one on a free loopback port.
    pub fn start(guest: Guest) -> BoxFuture<'static, Self> {
        // Boxed here: its server would be compiled once more in every test program.
        async move {
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
        .boxed()
    }

    /// Base URL, as CP_HOST_AGENT_ADDR takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Settings of a control plane with this host and a database, to be added to before they are parsed.
    pub fn settings(&self, database: &Database) -> BTreeMap<String, String> {
        let values = [
            ("DATABASE_URL", database.url.clone()),
            ("REDIS_URL", database.redis_url.clone()),
            ("WRENN_REDIS_PREFIX", database.redis_prefix.clone()),
            ("WRENN_CP_LISTEN_ADDR", "127.0.0.1:0".to_owned()),
            ("CP_HOST_AGENT_ADDR", self.url()),
            ("WRENN_HOST_TOKEN", TOKEN.to_owned()),
            ("WRENN_SIGNUP", "open".to_owned()),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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
    pub fn up(&self) -> BoxFuture<'_, ()> {
        async move {
            let listener = tokio::net::TcpListener::bind(self.addr).await.expect("the port is still ours");
            let task = tokio::spawn(server::serve(listener, self.inner.clone()));
            *self.running.lock().expect("no panic while held") = Some(task);
        }
        .boxed()
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

    /// How often an RPC ("pause", "resume", "snapshot", "discard", "fork") was asked for a sandbox or snapshot.
    pub fn calls(&self, rpc: &'static str, id: &str) -> u32 {
        self.inner.state.lock().expect("no panic while held").calls.get(&(rpc, id.to_owned())).copied().unwrap_or(0)
    }

    /// Ids of the snapshots on its disk.
    pub fn snapshots(&self) -> Vec<String> {
        self.inner.state.lock().expect("no panic while held").snapshots.keys().cloned().collect()
    }

    /// What CreateSandbox asked for, of a sandbox it holds.
    pub fn wish(&self, id: &str) -> Option<CreateSandboxRequest> {
        self.inner.state.lock().expect("no panic while held").sandboxes.get(id).map(|sim| sim.wish.clone())
    }

    /// The present report of a sandbox.
    pub fn report(&self, id: &str) -> Option<SandboxReport> {
        self.inner.state.lock().expect("no panic while held").sandboxes.get(id).map(|sim| sim.report.clone())
    }

    /// Says something of a sandbox, as a report with a new generation, that is not what really happens to it.
    pub fn say(&self, id: &str, change: impl FnOnce(&mut SandboxReport)) {
        self.inner.change(id, |sim| change(&mut sim.report));
    }

    /// The host pauses a sandbox by itself, as when its time-out is over.
    pub fn pause_by_timeout(&self, id: &str) {
        self.inner.change(id, pause::stop);
    }

    /// Lets sandboxes held in PAUSING go on.
    pub fn release_pauses(&self) {
        self.behave(|b| b.hold_pauses = false);
        for id in self.held(SandboxPhase::Pausing) {
            pause::finish_pause(&self.inner, &id);
        }
    }

    /// Lets sandboxes held in RESUMING go on.
    pub fn release_resumes(&self) {
        self.behave(|b| b.hold_resumes = false);
        for id in self.held(SandboxPhase::Resuming) {
            tokio::spawn(pause::finish_resume(self.inner.clone(), id));
        }
    }

    /// Lets sandboxes held in STARTING go on.
    pub fn release_starts(&self) {
        self.behave(|b| b.hold_starts = false);
        let ids = self.held(SandboxPhase::Starting);
        for id in ids {
            tokio::spawn(boot::boot(self.inner.clone(), id));
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
            sim.home = sim.guest.take().map(|guest| guest.home());
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
