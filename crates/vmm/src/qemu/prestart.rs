//! Prestarted QEMU: it waits, before it makes its machine, for the paths of memory and disk. Most of what a restore takes on the
//! VMM's side is the start of the program (docs/decisions/0007).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use wrenn_linux::process::Process;

use super::args::{self, DISK, DISK_PATH, MEMORY, MEMORY_PATH, only_disk};
use super::capture::blocking;
use super::machine::{KILL_WAIT, QemuMachine, StateStream};
use super::qmp::Qmp;
use crate::{DeviceState, DiskSpec, Frame, Machine, PrestartedVmm, VmmError};

/// PrestartedQemu is a VMM that waits. Dropped, it ends.
pub struct PrestartedQemu {
    /// Process and connection, until they are a machine's.
    waiting: Option<(Process, Qmp, StateStream)>,
    /// Where its files are mounted when they are known.
    namespace: Arc<File>,
    user: u32,
    run_dir: PathBuf,
    memory_mib: u32,
    maps_read_only: bool,
    version: String,
}

impl PrestartedQemu {
    pub(super) fn new(
        process: Process,
        qmp: Qmp,
        state: StateStream,
        frame: &Frame,
        maps_read_only: bool,
        version: &str,
    ) -> Result<Self, VmmError> {
        let namespace = process.mount_namespace().map_err(|error| VmmError::new("start", error))?;
        Ok(Self {
            waiting: Some((process, qmp, state)),
            namespace: Arc::new(namespace),
            user: frame.user,
            run_dir: frame.run_dir.clone(),
            memory_mib: frame.memory_mib,
            maps_read_only,
            version: version.to_owned(),
        })
    }

    /// Mounts memory and disk in its root.
    async fn give(&self, disk: &Path, memory: &Path) -> Result<(), VmmError> {
        let (namespace, user, maps_read_only) = (Arc::clone(&self.namespace), self.user, self.maps_read_only);
        let (disk, memory) = (disk.to_owned(), memory.to_owned());
        blocking("give its files to", move || {
            for file in [args::memory_file(&memory, maps_read_only), args::disk_file(&disk)] {
                file.open(user)?.attach_in(&namespace, Path::new(file.at))?;
            }
            Ok(())
        })
        .await
    }

    /// Gives it memory and disk, as the command line of a restore does.
    async fn fill(&self, qmp: &Qmp, disk: &Path, memory: &Path) -> Result<(), VmmError> {
        self.give(disk, memory).await?;
        let mut backend = json!({
            "qom-type": "memory-backend-file", "id": MEMORY, "size": u64::from(self.memory_mib) << 20,
            "share": false, "mem-path": MEMORY_PATH,
        });
        if self.maps_read_only {
            backend["readonly"] = Value::Bool(true);
            backend["rom"] = "off".into();
        }
        let file = json!({"driver": "file", "filename": DISK_PATH});
        let steps = [
            ("object-add", backend),
            ("qom-set", json!({"path": "/machine", "property": "memory-backend", "value": MEMORY})),
            ("blockdev-add", json!({"driver": "raw", "node-name": DISK, "discard": "unmap", "file": file})),
            ("x-exit-preconfig", json!({})),
        ];
        for (command, arguments) in steps {
            qmp.command(command, arguments).await.map_err(|error| VmmError::new("fill", error))?;
        }
        Ok(())
    }
}

impl PrestartedVmm for PrestartedQemu {
    fn run_dir(&self) -> PathBuf {
        self.run_dir.clone()
    }

    fn moved(&mut self, run_dir: PathBuf) {
        self.run_dir = run_dir;
    }

    fn is_alive(&self) -> bool {
        self.waiting.as_ref().is_some_and(|(process, ..)| process.ended().now_or_never().is_none())
    }

    fn restore(
        mut self: Box<Self>,
        disks: Vec<DiskSpec>,
        memory: PathBuf,
        state: DeviceState,
    ) -> BoxFuture<'static, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            // What fails here drops it, and that ends the VMM; but who is told of the failure may rely on its end.
            let filled = async {
                let Some((_, qmp, _)) = &self.waiting else { return Err(VmmError::new("fill", "it has ended")) };
                self.fill(qmp, only_disk(&disks)?, &memory).await
            };
            if let Err(error) = filled.await {
                let _ = self.kill(KILL_WAIT).await;
                return Err(error);
            }
            let Some((process, qmp, stream)) = self.waiting.take() else {
                return Err(VmmError::new("fill", "it has ended"));
            };
            QemuMachine::new(process, qmp, self.run_dir.clone(), memory, &self.version).loaded(&state, stream).await
        })
    }

    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move {
            let Some((process, ..)) = &self.waiting else { return Ok(()) };
            process.kill(wait).await.map_err(|error| VmmError::new("end", error))
        })
    }
}

impl Drop for PrestartedQemu {
    fn drop(&mut self) {
        // Nobody else knows of it. Without a runtime this process ends too, and a successor looks for what it left.
        if let (Some((process, ..)), Ok(runtime)) = (self.waiting.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { process.kill(KILL_WAIT).await });
        }
    }
}
