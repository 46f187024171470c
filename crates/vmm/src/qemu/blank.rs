//! A QEMU that was started and waits, before it makes its machine, to be told where memory and disk are: most of what a restore
//! takes on the VMM's side is the start of the program (docs/decisions/0007).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use wrenn_linux::process::Process;

use super::args::{DISK, MEMORY};
use super::machine::QemuMachine;
use super::qmp::Qmp;
use super::{ANSWER_WAIT, loaded};
use crate::{Blank, Frame, Machine, VmmError};

/// One that waits. Dropped, its VMM ends.
pub struct QemuBlank {
    /// Until it is a machine.
    waiting: Option<(Process, Qmp)>,
    run_dir: PathBuf,
    memory_mib: u32,
    maps_read_only: bool,
}

impl QemuBlank {
    pub(super) fn new(process: Process, qmp: Qmp, frame: &Frame, maps_read_only: bool) -> Self {
        let waiting = Some((process, qmp));
        Self { waiting, run_dir: frame.run_dir.clone(), memory_mib: frame.memory_mib, maps_read_only }
    }

    /// What the command line says of a restore from the start.
    async fn fill(&self, qmp: &Qmp, disk: &Path, memory: &Path) -> Result<(), VmmError> {
        let mut backend = json!({
            "qom-type": "memory-backend-file", "id": MEMORY, "size": u64::from(self.memory_mib) << 20,
            "share": false, "mem-path": memory.display().to_string(),
        });
        if self.maps_read_only {
            backend["readonly"] = Value::Bool(true);
            backend["rom"] = "off".into();
        }
        let file = json!({"driver": "file", "filename": disk.display().to_string()});
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

impl Blank for QemuBlank {
    fn run_dir(&self) -> PathBuf {
        self.run_dir.clone()
    }

    fn moved(&mut self, run_dir: PathBuf) {
        self.run_dir = run_dir;
    }

    fn is_alive(&self) -> bool {
        self.waiting.as_ref().is_some_and(|(process, _)| process.ended().now_or_never().is_none())
    }

    fn restore(
        mut self: Box<Self>,
        disk: PathBuf,
        memory: PathBuf,
        state: PathBuf,
    ) -> BoxFuture<'static, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            if let Some((process, qmp)) = &self.waiting
                && let Err(error) = self.fill(qmp, &disk, &memory).await
            {
                let _ = process.kill(ANSWER_WAIT).await;
                return Err(error);
            }
            let Some((process, qmp)) = self.waiting.take() else {
                return Err(VmmError::new("fill", "it is not there"));
            };
            loaded(QemuMachine::new(process, qmp, self.run_dir.clone(), memory), &state).await
        })
    }

    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move {
            let Some((process, _)) = &self.waiting else { return Ok(()) };
            process.kill(wait).await.map_err(|error| VmmError::new("end", error))
        })
    }
}

impl Drop for QemuBlank {
    fn drop(&mut self) {
        // Nobody else knows of it. Without a runtime this process ends too, and a successor looks for what it left.
        if let (Some((process, _)), Ok(runtime)) = (self.waiting.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { process.kill(ANSWER_WAIT).await });
        }
    }
}
