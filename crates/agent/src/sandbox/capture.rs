//! Capturing a running sandbox: for a pause, a snapshot, or the instant of a fork. The guest stands still between `frozen` and
//! `thawed` only; nothing is changed that could not be left as it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wrenn_domain::limits::PAUSE_DISK_RESERVE_BYTES;
use wrenn_vmm::{CaptureRequest, CapturedMemory, PendingCapture, Record, TakenCapture, VmmError};

use super::error::CaptureError;
use super::guest_init::KERNEL_VERSION;
use super::live::RunningSandbox;
use super::report::now_ms;
use crate::blocking::blocking;
use crate::context::Context;
use crate::faults::Point;
use crate::guest;
use crate::host::memory_available_mib;
use crate::storage::captures::FORMAT;
use crate::storage::{
    Capture, Compatibility, Disk, Draft, FileDigest, Manifest, PreparedCopy, StorageError, memory_path,
};

/// Whether the guest goes on after its memory and disk are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCapture {
    /// The machine goes on at once, before anything is synced.
    Resume,
    /// The machine stays as it is: its VMM is about to end.
    StayPaused,
}

/// MiB of a guest's memory that are held until it goes on, and the part of what the host has left that they may be: captures at the
/// same time each find less.
const HELD_MIB_MAX: u64 = 512;
const HELD_PART: u64 = 8;

impl AfterCapture {
    /// Returns the bytes of memory that are written only when the guest goes on: it stands still while they are read, not while they
    /// are written.
    fn held_bytes_max(self) -> usize {
        let mib = match self {
            Self::Resume => HELD_MIB_MAX.min(memory_available_mib() / HELD_PART),
            Self::StayPaused => 0,
        };
        usize::try_from(mib << 20).unwrap_or(0)
    }
}

/// Steps of one kind of capture at which a test may interrupt it.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultPoints {
    frozen: Option<Point>,
    written: Option<Point>,
    thawed: Option<Point>,
    sealed: Option<Point>,
}

impl FaultPoints {
    /// Steps of a pause.
    pub const PAUSE: Self = Self {
        frozen: Some(Point::PauseFrozen),
        written: Some(Point::PauseWritten),
        thawed: None,
        sealed: Some(Point::PauseSealed),
    };

    /// Steps of a snapshot or of the instant of a fork.
    pub const SNAPSHOT: Self = Self {
        frozen: Some(Point::SnapshotFrozen),
        written: Some(Point::SnapshotWritten),
        thawed: Some(Point::SnapshotThawed),
        sealed: Some(Point::SnapshotSealed),
    };
}

/// One capture to be made of a running sandbox.
pub struct CapturePlan<'a> {
    /// The sandbox's directory.
    pub dir: &'a Path,
    /// Where the capture goes.
    pub path: &'a Path,
    pub after: AfterCapture,
    pub points: FaultPoints,
}

/// Does everything of a capture but the commit; also returns how long the guest stood still.
///
/// # Errors
/// A step failed: the guest runs as before and no file is left.
pub async fn write_capture(
    ctx: &Arc<Context>,
    sandbox: &RunningSandbox,
    plan: &CapturePlan<'_>,
) -> Result<(Draft, Duration), CaptureError> {
    let pid = sandbox.machine.record().process.pid;
    let reach = |point: Option<Point>| ctx.faults.reach(point, Some(pid));
    let (draft, pending) = prepare(ctx, sandbox, plan).await?;
    let frozen_at = Instant::now();
    let taken = take(ctx, sandbox, plan, &draft, pending).await;
    let mut paused_for = frozen_at.elapsed();
    if plan.after == AfterCapture::Resume || taken.is_err() {
        // The guest goes on first; whatever failed is said afterwards.
        let thawed = thaw(sandbox).await;
        if taken.is_ok() {
            paused_for = thawed?.duration_since(frozen_at);
        }
    }
    let taken = taken?;
    if plan.after == AfterCapture::Resume {
        reach(plan.points.thawed);
    }
    match seal(ctx, sandbox, draft, taken).await {
        Ok(draft) => {
            reach(plan.points.sealed);
            Ok((draft, paused_for))
        }
        Err(error) => {
            if plan.after == AfterCapture::StayPaused {
                thaw(sandbox).await?;
            }
            Err(error)
        }
    }
}

/// Does what can be done while the guest still runs.
async fn prepare(
    ctx: &Arc<Context>,
    sandbox: &RunningSandbox,
    plan: &CapturePlan<'_>,
) -> Result<(Draft, Box<dyn PendingCapture>), CaptureError> {
    let pid = sandbox.machine.record().process.pid;
    let (its, path, base) = (Arc::clone(ctx), plan.path.to_owned(), memory_path(plan.dir));
    let (draft, new_bytes) = blocking(move || {
        let new_bytes = wrenn_linux::process::anonymous_bytes(pid).unwrap_or(0);
        its.store.admit_bytes(new_bytes, PAUSE_DISK_RESERVE_BYTES)?;
        Ok::<_, StorageError>((Draft::begin(&its.store, &path)?, new_bytes))
    })
    .await?;
    // Sharing a file of many pieces takes as long as the guest's sync; copying it longer, and the guest runs on meanwhile.
    let ready = async {
        let (prepared, its) = (sandbox.prepared_copy.take().await, Arc::clone(ctx));
        let draft = blocking(move || {
            let copy = prepared.map_or_else(|| PreparedCopy::make(&base, || its.store.spare(new_bytes)), Ok)?;
            draft.begin_memory(&copy).map(|()| draft)
        })
        .await?;
        let (state_dir, memory) = (draft.state_dir(), draft.memory());
        let request = CaptureRequest { state_dir, memory, held_bytes_max: plan.after.held_bytes_max() };
        Ok((draft, sandbox.machine.begin_capture(request).await?))
    };
    let (ready, ()) = tokio::join!(ready, guest::prepare_capture(&sandbox.guest));
    if ready.is_err() {
        guest::notify_resumed(&sandbox.guest, &sandbox.ledger.lifecycle).await;
    }
    ready
}

/// Stops the guest and takes device state, memory and disk of that instant.
async fn take(
    ctx: &Context,
    sandbox: &RunningSandbox,
    plan: &CapturePlan<'_>,
    draft: &Draft,
    pending: Box<dyn PendingCapture>,
) -> Result<Box<dyn TakenCapture>, CaptureError> {
    let pid = sandbox.machine.record().process.pid;
    guest::freeze(&sandbox.guest).await;
    sandbox.machine.pause().await?;
    ctx.faults.reach(plan.points.frozen, Some(pid));
    // Device state, memory and disk at once: the guest stands still for the longest of them.
    let disks = blocking(draft.capture_disks(&sandbox.disks));
    let (taken, disks) = tokio::join!(pending.take(), disks);
    disks?;
    ctx.faults.reach(plan.points.written, Some(pid));
    Ok(taken?)
}

/// Writes what is not in its file yet, then the manifest, and syncs everything.
async fn seal(
    ctx: &Context,
    sandbox: &RunningSandbox,
    draft: Draft,
    taken: Box<dyn TakenCapture>,
) -> Result<Draft, CaptureError> {
    let (state_files, mut manifest) = (taken.state_files(), manifest(ctx, sandbox, taken.used()));
    let memory = taken.finish().await?;
    blocking(move || {
        manifest.state = draft.digest_state(&state_files)?;
        match memory {
            CapturedMemory::Changed(pages) => {
                let checksum = &mut manifest.memory.checksum;
                *checksum = checksum.wrapping_add(pages.checksum_change);
            }
            CapturedMemory::Whole => manifest.memory = draft.digest_memory()?,
        }
        draft.seal(&manifest)?;
        Ok(draft)
    })
    .await
}

/// Lets the guest go on, and tells it that it is still the same one. Returns when it went on.
async fn thaw(sandbox: &RunningSandbox) -> Result<Instant, VmmError> {
    sandbox.machine.resume().await?;
    Ok(guest::notify_resumed(&sandbox.guest, &sandbox.ledger.lifecycle).await)
}

/// Makes a capture of a running sandbox that goes on; also returns how long its guest stood still.
///
/// # Errors
/// A step failed: the guest runs on and no file is left.
pub async fn capture_running(
    ctx: &Arc<Context>,
    sandbox: &RunningSandbox,
    dir: &Path,
    path: &Path,
) -> Result<(Capture, Duration), CaptureError> {
    let plan = CapturePlan { dir, path, after: AfterCapture::Resume, points: FaultPoints::SNAPSHOT };
    let (draft, paused_for) = write_capture(ctx, sandbox, &plan).await?;
    Ok((blocking(move || draft.commit()).await?, paused_for))
}

/// Describes a capture: without the digests of its state, and with that of the memory its machine was started with.
fn manifest(ctx: &Context, sandbox: &RunningSandbox, used: &[(u64, u64)]) -> Manifest {
    let (ledger, spec) = (&sandbox.ledger, &sandbox.ledger.spec);
    let kernel = ledger.metadata.get(KERNEL_VERSION).cloned().unwrap_or_else(|| ctx.kernel.name());
    Manifest {
        format: FORMAT,
        compatibility: compatibility(ctx, sandbox.machine.record()),
        template: spec.template.clone(),
        image: ledger.image.clone(),
        kernel,
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        disks: sandbox.disks.iter().map(Disk::record).collect(),
        state: BTreeMap::new(),
        memory: FileDigest { bytes: u64::from(spec.memory_mib) << 20, checksum: ledger.memory_checksum },
        boot_id: ctx.boot_id.clone(),
        default_user: spec.default_user.clone(),
        default_workdir: ledger.workdir.clone(),
        default_env: spec.default_env.clone(),
        token: ledger.token.clone(),
        used: used.to_vec(),
        metadata: ledger.metadata.clone(),
        created_at_ms: now_ms(),
    }
}

/// VMM and processor that the state of a running machine depends on: its VMM is not the installed one when that was upgraded meanwhile.
fn compatibility(ctx: &Context, record: Record) -> Compatibility {
    let here = ctx.compatibility.clone();
    let vmm_version = if record.version.is_empty() { here.vmm_version } else { record.version };
    Compatibility { vmm: record.driver, vmm_version, ..here }
}
