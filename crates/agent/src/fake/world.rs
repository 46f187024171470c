//! Everything of the fake host that outlives an agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use super::machine::FakeVm;
use crate::mutex::lock;

/// Process ids of fake VMMs begin here, above every real one.
const FIRST_PID: i32 = 1 << 30;

/// One network slot of the fake host.
#[derive(Debug, Clone, Default)]
pub struct SlotState {
    /// Where the guest of this slot is reached.
    pub guest: Option<SocketAddr>,
    /// Where the agent listens for the guest to be ready.
    pub ready: Option<SocketAddr>,
}

/// The fake host.
pub struct World {
    home: tempfile::TempDir,
    /// Serves the guests; never stopped by the death of an agent.
    runtime: tokio::runtime::Runtime,
    vms: Mutex<BTreeMap<i32, Arc<FakeVm>>>,
    pub slots: Mutex<BTreeMap<u32, SlotState>>,
    next_pid: AtomicI32,
    /// Run of the host; another one after a reboot.
    pub boot_id: Mutex<String>,
    /// Guests of VMMs that start while it is set never answer anybody.
    pub makes_silent: AtomicBool,
}

impl World {
    /// Makes a fake host with one image, `minimal`, and a kernel.
    pub fn new() -> Arc<Self> {
        let home = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = Self {
            home,
            runtime,
            vms: Mutex::default(),
            slots: Mutex::default(),
            next_pid: AtomicI32::new(FIRST_PID),
            boot_id: Mutex::new("first boot".to_owned()),
            makes_silent: AtomicBool::new(false),
        };
        let image = world.dir().join("images/minimal");
        std::fs::create_dir_all(&image).unwrap();
        let content = vec![0; 1 << 20];
        let version = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&content));
        std::fs::write(image.join("rootfs.ext4"), content).unwrap();
        let described = serde_json::json!({"name": "minimal", "version": version, "size_bytes": 1 << 20});
        std::fs::write(image.join("image.json"), described.to_string()).unwrap();
        std::fs::create_dir_all(world.dir().join("kernels")).unwrap();
        std::fs::write(world.dir().join("kernels/vmlinux"), "").unwrap();
        Arc::new(world)
    }

    /// Returns the agent's directory.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Returns the directory of a sandbox.
    pub fn sandbox_dir(&self, id: wrenn_domain::ids::SandboxId) -> PathBuf {
        self.dir().join("sandboxes").join(id.to_string())
    }

    /// Runs something for as long as the fake host exists.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Enters the runtime that serves guests, for making its sockets.
    pub fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Chooses the process id of a new VMM.
    pub fn next_pid(&self) -> i32 {
        self.next_pid.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a VMM.
    pub fn add(&self, vm: Arc<FakeVm>) {
        lock(&self.vms).insert(vm.pid, vm);
    }

    /// Returns a VMM that runs.
    pub fn vm(&self, pid: i32) -> Option<Arc<FakeVm>> {
        lock(&self.vms).get(&pid).filter(|vm| vm.is_alive()).cloned()
    }

    /// Returns all VMMs that run.
    pub fn living(&self) -> Vec<Arc<FakeVm>> {
        lock(&self.vms).values().filter(|vm| vm.is_alive()).cloned().collect()
    }

    /// Returns the VMM whose guest is in this slot.
    pub fn in_slot(&self, slot: u32) -> Option<Arc<FakeVm>> {
        self.living().into_iter().find(|vm| vm.slot == slot && vm.has_guest())
    }

    /// Ends every VMM, as a reboot does, and gives the host another boot id.
    pub fn reboot(&self) {
        for vm in self.living() {
            vm.end();
        }
        lock(&self.slots).clear();
        *lock(&self.boot_id) = uuid::Uuid::new_v4().to_string();
    }
}
