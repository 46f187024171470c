//! Capture of a QEMU machine: QEMU writes the state of its devices, and the pages its guest has written are read from the process by
//! the kernel's own account of them (docs/decisions/0004).

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;
use wrenn_linux::files;
use wrenn_linux::private_pages::{Taken, Taker};

use super::qmp::Qmp;
use super::status::{Status, status};
use crate::launch::SCRATCH;
use crate::{CaptureRequest, CapturedMemory, ChangedPages, PendingCapture, TakenCapture, VmmError};

const ACT: &str = "capture";
/// Name of the only file of the device state.
const STATE_FILE: &str = "devices";
/// Bytes of device state at most: without memory it is some 60 KB, so this is a bound for a VMM gone mad.
pub const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// StateFile says where a VMM writes its device state.
#[derive(Debug, Clone, Copy)]
pub enum StateFile {
    /// Where it belongs: the VMM sees our files.
    AsNamed,
    /// In the only directory that the VMM of this pid may write into.
    InScratch { pid: i32 },
}

/// PendingPages is a capture that waits for its machine to be paused.
pub struct PendingPages {
    qmp: Arc<Qmp>,
    request: CaptureRequest,
    taker: Taker,
    state_file: StateFile,
}

impl PendingPages {
    /// Opens what is needed to read the pages of process `pid`, whose memory is mapped over `base`. Blocks.
    ///
    /// # Errors
    /// The process is gone, or the request's memory file cannot be opened.
    pub fn begin(
        qmp: Arc<Qmp>,
        pid: i32,
        base: &Path,
        request: CaptureRequest,
        state_file: StateFile,
    ) -> std::io::Result<Self> {
        let target = std::fs::File::options().read(true).write(true).open(&request.memory)?;
        let taker = Taker::new(pid, base, target, request.held_bytes_max)?;
        Ok(Self { qmp, request, taker, state_file })
    }
}

impl PendingCapture for PendingPages {
    fn take(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn TakenCapture>, VmmError>> {
        Box::pin(async move {
            let Self { qmp, request, taker, state_file } = *self;
            // A paused machine's VMM does not write to its memory, so nothing here has to wait for anything else; the guest waits for
            // all of it.
            let taking = blocking(ACT, || taker.take());
            let state = request.state_dir.join(STATE_FILE);
            let (found, saved, memory) = tokio::join!(status(&qmp), save_devices(&qmp, state_file, &state), taking);
            if found? != Status::Paused {
                return Err(VmmError::new(ACT, "it is not paused"));
            }
            saved?;
            Ok(Box::new(TakenPages(memory?)) as Box<dyn TakenCapture>)
        })
    }
}

/// Has QEMU write its devices' state. The command carries Xen's name and needs no Xen: it writes every device and leaves memory out.
async fn save_devices(qmp: &Qmp, written: StateFile, state: &Path) -> Result<(), VmmError> {
    let name = match written {
        StateFile::AsNamed => state.display().to_string(),
        StateFile::InScratch { .. } => format!("{SCRATCH}/{STATE_FILE}"),
    };
    let arguments = json!({"filename": name, "live": false});
    qmp.command("xen-save-devices-state", arguments).await.map_err(|error| VmmError::new(ACT, error))?;
    if let StateFile::InScratch { pid } = written {
        let (inside, state) = (format!("/proc/{pid}/root{SCRATCH}/{STATE_FILE}"), state.to_owned());
        blocking(ACT, move || take_state(Path::new(&inside), &state)).await?;
    }
    let bytes = state.metadata().map_err(|error| VmmError::new(ACT, error))?.len();
    if bytes == 0 || bytes > STATE_BYTES_MAX {
        return Err(VmmError::new(ACT, format!("the VMM wrote {bytes} bytes of device state")));
    }
    Ok(())
}

/// Moves what a VMM wrote to where it belongs. The VMM may have made anything of the name it was given.
fn take_state(inside: &Path, state: &Path) -> std::io::Result<()> {
    let mut written = files::open_untrusted(inside)?.take(STATE_BYTES_MAX + 1);
    let mut kept = std::fs::File::create(state)?;
    std::io::copy(&mut written, &mut kept)?;
    std::fs::remove_file(inside)
}

/// TakenPages is a capture whose changed pages are held here or written already.
struct TakenPages(Taken);

impl TakenCapture for TakenPages {
    fn state_files(&self) -> Vec<String> {
        vec![STATE_FILE.to_owned()]
    }

    fn used(&self) -> &[(u64, u64)] {
        self.0.used()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<CapturedMemory, VmmError>> {
        Box::pin(async move {
            let copied = blocking("write the memory of", || self.0.finish()).await?;
            let (written, zero, checksum_change) = (copied.written, copied.zero, copied.checksum_change);
            Ok(CapturedMemory::Changed(ChangedPages { written, zero, checksum_change }))
        })
    }
}

/// Does work with files on a thread that may block.
///
/// # Errors
/// The work failed or was given up.
pub async fn blocking<T: Send + 'static>(
    act: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, VmmError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| VmmError::new(act, error))?.map_err(|error| VmmError::new(act, error))
}
