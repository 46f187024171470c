//! Giving back what a sandbox, or something made ahead of time, holds on the host. Every step may be repeated.

use crate::failure::cause;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::ids::SandboxId;
use wrenn_vmm::Machine;

use super::live::PartialStart;
use crate::blocking::blocking;
use crate::context::Context;
use crate::ledger::{Ledger, Step, capture_dir};
use crate::network::Slot;
use crate::storage::captures::discard;
use crate::storage::{StorageError, Store, memory_path};
use crate::vmms::KILL_WAIT;

/// Between two tries to remove what does not go.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Ends a machine, then takes its network apart.
pub async fn release(ctx: &Context, slot: Option<Box<dyn Slot>>, machine: Option<Arc<dyn Machine>>) {
    if let Some(machine) = machine {
        end_machine(&*machine).await;
    }
    if let Some(slot) = slot {
        let number = slot.number();
        // Its namespace goes with its last user.
        drop(slot);
        ctx.slots.discard(number).await;
    }
}

/// Gives back what a start that was given up or failed had taken.
pub async fn release_partial(ctx: &Context, partial: PartialStart) {
    // Disks go with the directory they are in.
    let PartialStart { slot, machine, guest, disks: _, vmm, scratch } = partial;
    drop(guest);
    if let Some(vmm) = vmm {
        end_vmm(&*vmm).await;
    }
    release(ctx, slot, machine).await;
    if let Some(scratch) = scratch {
        remove_scratch(ctx, scratch).await;
    }
}

async fn end_machine(machine: &dyn Machine) {
    if let Err(error) = machine.kill(KILL_WAIT).await {
        tracing::error!(error = cause(&error), "a VMM does not end");
    }
    remove_run_dir(machine.record().run_dir).await;
}

/// Ends a VMM that holds no guest.
pub async fn end_vmm(vmm: &dyn wrenn_vmm::PrestartedVmm) {
    if let Err(error) = vmm.kill(KILL_WAIT).await {
        tracing::error!(error = cause(&error), "a VMM does not end");
    }
    remove_run_dir(vmm.run_dir()).await;
}

/// Removes a directory of sockets; one that is not there, or stays, harms nobody.
pub async fn remove_run_dir(run_dir: PathBuf) {
    blocking(move || drop(std::fs::remove_dir_all(run_dir))).await;
}

/// Removes a directory in which something was made ahead of time; nothing there is no error.
pub async fn remove_scratch(ctx: &Context, dir: PathBuf) {
    let (store, path) = (ctx.store.clone(), dir.clone());
    if let Err(error) = blocking(move || store.remove_dir(&path)).await {
        tracing::error!(path = %dir.display(), error = cause(&error), "the files of something made ahead of time do not go");
    }
}

/// Removes what only a running sandbox needs, and captures other than that of generation `kept`. Blocks.
pub fn release_files(store: &Store, dir: &Path, kept: u64) {
    if let Err(error) = store.release_disks(dir) {
        tracing::error!(error = cause(&error), "the disk of a sandbox does not go");
    }
    let _ = std::fs::remove_file(memory_path(dir));
    release_captures_but(store, dir, Some(&capture_dir(dir, kept)));
}

/// Removes the memory base of a sandbox that crashed, and its captures: a memory of an earlier moment must never meet the disk of
/// a later one. Blocks.
pub fn release_memory(store: &Store, dir: &Path) {
    release_captures(store, dir);
    let _ = std::fs::remove_file(memory_path(dir));
}

/// Removes every capture in a sandbox's directory. Blocks.
pub fn release_captures(store: &Store, dir: &Path) {
    release_captures_but(store, dir, None);
}

fn release_captures_but(store: &Store, dir: &Path, kept: Option<&Path>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with("capture-") || Some(path.as_path()) == kept {
            continue;
        }
        if let Err(error) = discard(store, &path) {
            tracing::error!(error = cause(&error), "an old capture does not go");
        }
    }
}

/// Notes in the ledger that a sandbox is being deleted: from here on a later agent only clears up.
pub async fn mark_deleting(ctx: &Context, id: SandboxId) {
    let dir = ctx.store.sandbox_dir(id);
    let marked = blocking(move || {
        // Without a ledger a later agent removes the directory anyway.
        let Ok(mut ledger) = Ledger::read(&dir, id) else { return Ok(()) };
        ledger.step = Step::Deleting;
        ledger.write(&dir)
    });
    if let Err(error) = marked.await {
        tracing::error!(sandbox = %id, error = cause(&error), "cannot note that {id} is being deleted");
    }
}

/// Removes all files of a sandbox, and whatever VMM still uses them; tries until they are gone.
pub async fn remove_files(ctx: &Context, id: SandboxId) {
    let mut pause = RETRY_MIN;
    while let Err(error) = try_remove_files(ctx, id).await {
        // A start that was given up may just have been making one: the next try finds it.
        if pause > RETRY_MIN {
            tracing::error!(sandbox = %id, error = cause(&error), "the files of {id} do not go; trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Removes all files of a sandbox, and whatever VMM still uses them.
///
/// # Errors
/// A file does not go.
pub async fn try_remove_files(ctx: &Context, id: SandboxId) -> Result<(), StorageError> {
    // A VMM whose start was interrupted is found by the files it has open.
    ctx.vmms.end_below(&ctx.store.sandbox_dir(id)).await;
    let store = ctx.store.clone();
    blocking(move || store.remove_sandbox_dir(id)).await?;
    remove_run_dir(ctx.run_dir.join(id.to_string())).await;
    Ok(())
}
