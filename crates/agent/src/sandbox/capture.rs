//! Writing a sandbox down: for a pause, a snapshot, or the instant of a fork. The guest stands still between `frozen` and `thawed`
//! only; nothing is changed that could not be left as it was.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wrenn_domain::limits::PAUSE_DISK_RESERVE_BYTES;
use wrenn_vmm::{Captured, VmmError};

use super::birth::{Body, KERNEL_VERSION};
use super::report::now_ms;
use crate::context::Context;
use crate::faults::Point;
use crate::guest;
use crate::host::memory_available_mib;
use crate::storage::captures::{Mark, mark_state};
use crate::storage::{BaseCopy, Capture, Draft, Manifest, StorageError};

/// A sandbox was not written down; it runs on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("the VM did not do its part")]
    Machine(#[from] VmmError),
    #[error("its files could not be written")]
    Storage(#[from] StorageError),
    #[error("the work was given up")]
    GivenUp,
}

impl CaptureError {
    /// Text and code for the user.
    pub fn shown(&self) -> (String, &'static str) {
        match self {
            Self::Storage(error @ StorageError::Full { .. }) => (error.to_string(), "disk_full"),
            _ => (format!("{self}; the host's log has the cause. Try again"), "agent_error"),
        }
    }
}

/// Whether the guest goes on after its memory and disk are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It goes on at once, before anything is synced.
    GoOn,
    /// It stays as it is: its VM is about to end.
    StandStill,
}

/// MiB of a guest's memory that are held until it goes on, and the part of what the host has left that they may be: captures at the
/// same time each find less.
const HELD_MIB_MAX: u64 = 512;
const HELD_PART: u64 = 8;

impl After {
    /// Bytes of memory written down only when the guest goes on: it stands still while they are read, not while they are written.
    fn held_bytes_max(self) -> usize {
        let mib = match self {
            Self::GoOn => HELD_MIB_MAX.min(memory_available_mib() / HELD_PART),
            Self::StandStill => 0,
        };
        usize::try_from(mib << 20).unwrap_or(0)
    }
}

/// Steps of one kind of capture at which a test may interrupt it.
#[derive(Default)]
pub struct Steps {
    frozen: Option<Point>,
    written: Option<Point>,
    thawed: Option<Point>,
    sealed: Option<Point>,
}

/// Of a pause.
pub const PAUSE: Steps = Steps {
    frozen: Some(Point::PauseFrozen),
    written: Some(Point::PauseWritten),
    thawed: None,
    sealed: Some(Point::PauseSealed),
};

/// Of a snapshot or the instant of a fork.
pub const SNAPSHOT: Steps = Steps {
    frozen: Some(Point::SnapshotFrozen),
    written: Some(Point::SnapshotWritten),
    thawed: Some(Point::SnapshotThawed),
    sealed: Some(Point::SnapshotSealed),
};

/// Everything but the commit. When this fails the guest runs as before and no file is left.
pub async fn write_down(
    ctx: &Arc<Context>,
    body: &Body,
    dir: &Path,
    place: &Path,
    after: After,
    steps: &Steps,
) -> Result<(Draft, Duration), CaptureError> {
    let pid = body.machine.record().process.pid;
    let reach = |point: Option<Point>| ctx.faults.reach(point, Some(pid));
    let new_bytes = wrenn_linux::process::anonymous_bytes(pid).unwrap_or(0);
    ctx.store.admit_bytes(new_bytes, PAUSE_DISK_RESERVE_BYTES)?;
    let (draft, base) = (Draft::begin(place)?, dir.join("memory"));
    // Sharing a file of many pieces takes as long as the guest's sync; copying it longer, and the guest runs on meanwhile.
    let ready = async {
        let ahead = body.ahead.take().await;
        let its = Arc::clone(ctx);
        let begun = tokio::task::spawn_blocking(move || {
            let copy = ahead.map_or_else(|| BaseCopy::make(&base, || its.store.spare(new_bytes)), Ok)?;
            draft.begin_memory(copy).map(|()| draft)
        });
        let draft = begun.await.map_err(|_| CaptureError::GivenUp)??;
        let taker = body.machine.expect_capture(draft.memory(), after.held_bytes_max()).await?;
        Ok((draft, taker))
    };
    let (ready, ()) = tokio::join!(ready, guest::prepare(&body.guest));
    let (draft, taker) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            guest::go_on(&body.guest, &body.ledger.lifecycle).await;
            return Err(error);
        }
    };
    let frozen_at = Instant::now();
    let taken = async {
        body.machine.pause().await?;
        reach(steps.frozen);
        // Device state, memory and disk at once: the guest stands still for the longest of them.
        let disk = tokio::task::spawn_blocking(draft.disk_taker(dir.join("disk")));
        let (captured, disk) = tokio::join!(body.machine.capture(draft.state(), taker), disk);
        disk.map_err(|_| CaptureError::GivenUp)??;
        reach(steps.written);
        Ok::<_, CaptureError>(captured?)
    };
    let taken = taken.await;
    let mut stood_still = frozen_at.elapsed();
    if after == After::GoOn || taken.is_err() {
        // The guest goes on first; whatever failed is told afterwards.
        let thawed = thaw(body).await;
        if taken.is_ok() {
            stood_still = thawed?.duration_since(frozen_at);
        }
    }
    let captured = taken?;
    if after == After::GoOn {
        reach(steps.thawed);
    }
    let sealed = async {
        let mut manifest = manifest(ctx, body, dir, &draft, &captured)?;
        let work = tokio::task::spawn_blocking(move || {
            let memory = &mut manifest.memory;
            memory.checksum = memory.checksum.wrapping_add(captured.finish()?.checksum_change);
            draft.seal(&manifest)?;
            Ok(draft)
        });
        work.await.unwrap_or(Err(CaptureError::GivenUp))
    };
    match sealed.await {
        Ok(draft) => {
            reach(steps.sealed);
            Ok((draft, stood_still))
        }
        Err(error) => {
            if after == After::StandStill {
                thaw(body).await?;
            }
            Err(error)
        }
    }
}

/// Lets the guest go on, and tells it that it is still the same one. Answers when it went on.
async fn thaw(body: &Body) -> Result<Instant, VmmError> {
    body.machine.resume().await?;
    let went_on = Instant::now();
    guest::go_on(&body.guest, &body.ledger.lifecycle).await;
    Ok(went_on)
}

/// A capture of a running sandbox that goes on.
pub async fn snapshot(
    ctx: &Arc<Context>,
    body: &Body,
    dir: &Path,
    place: &Path,
    steps: &Steps,
) -> Result<(Capture, Duration), CaptureError> {
    let (draft, stood_still) = write_down(ctx, body, dir, place, After::GoOn, steps).await?;
    Ok((draft.commit()?, stood_still))
}

/// All but what the pages written since the start change in the memory's checksum.
fn manifest(
    ctx: &Context,
    body: &Body,
    dir: &Path,
    draft: &Draft,
    captured: &Captured,
) -> Result<Manifest, CaptureError> {
    let (ledger, wish) = (&body.ledger, &body.ledger.wish);
    let disk = dir.join("disk");
    let disk_bytes = disk.metadata().map_err(|source| StorageError::File { act: "read", path: disk, source })?.len();
    let kernel = ledger.metadata.get(KERNEL_VERSION).cloned().unwrap_or_else(|| ctx.kernel.name());
    Ok(Manifest {
        format: 1,
        maker: ctx.maker.clone(),
        template: wish.template.clone(),
        image: ledger.image.clone(),
        kernel,
        vcpus: wish.vcpus,
        memory_mib: wish.memory_mib,
        disk_bytes,
        state: mark_state(&draft.state(), captured.state_bytes)?,
        memory: Mark { bytes: u64::from(wish.memory_mib) << 20, checksum: ledger.memory_checksum },
        boot_id: ctx.boot_id.clone(),
        default_user: wish.default_user.clone(),
        default_workdir: ledger.workdir.clone(),
        default_env: wish.default_env.clone(),
        token: ledger.token.clone(),
        used: captured.used().to_vec(),
        metadata: ledger.metadata.clone(),
        created_at_ms: now_ms(),
    })
}
