//! What a new agent does with what an earlier one left.
//!
//! | ledger | found | done |
//! |---|---|---|
//! | begun, or none | half-made | removed; the control plane asks again |
//! | ready | its VM runs | taken over |
//! | ready | no VM | crashed, disk kept |
//! | pausing | its capture counts | paused: its VM is ended |
//! | pausing | it does not | as if ready: the VM goes on |
//! | paused | anything | paused: a VM is ended, its disk of the try removed |
//! | crashed | anything | crashed, disk kept |
//! | pausing or ready, lost in a power cut | what it replaced | crashed, disk kept |
//! | deleting | anything | removed |
//! | unreadable | anything | set aside in quarantine/, its VM ended |

use crate::failure::cause;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wrenn_domain::ids::SandboxId;
use wrenn_vmm::Machine;

use super::registry::Registry;
use super::teardown::{release_files, remove_run_dir, try_remove_files};
use crate::blocking::blocking;
use crate::context::Context;
use crate::ledger::{Ledger, Step};
use crate::network::NetworkError;
use crate::storage::{Capture, StorageError, Store};

/// Reads every ledger and acts on it, then removes networks nobody owns.
///
/// # Errors
/// The host's networks cannot be listed.
pub async fn recover(registry: &Arc<Registry>) -> Result<(), NetworkError> {
    let ctx = &registry.ctx;
    remove_half_made(ctx).await;
    let mut found = Vec::new();
    for (id, dir) in sandbox_dirs(ctx).await {
        match id {
            Some(id) => found.extend(recover_sandbox(ctx, id, &dir).await),
            None => set_aside(ctx, &dir).await,
        }
    }
    ctx.slots.discard_orphans().await?;
    // Only now: a fork's child starts at once, and would be given the number of a network that is still in its way.
    for Recovered { ledger, machine } in found {
        registry.adopt(ledger, machine);
    }
    Ok(())
}

/// A sandbox that is to have a task again.
struct Recovered {
    ledger: Ledger,
    /// Machine of the sandbox, when that still runs.
    machine: Option<Arc<dyn Machine>>,
}

/// Does what a sandbox's ledger says; `None` when nothing is left of it.
async fn recover_sandbox(ctx: &Context, id: SandboxId, dir: &Path) -> Option<Recovered> {
    let path = dir.to_owned();
    let ledger = match blocking(move || Ledger::read(&path, id)).await {
        Ok(ledger) => ledger,
        Err(error) => {
            tracing::error!(sandbox = %id, error = cause(&error), "the ledger of {id} cannot be read");
            recover_unreadable(ctx, id, dir).await;
            return None;
        }
    };
    match ledger.step {
        Step::Begun | Step::Deleting => {
            tracing::info!(sandbox = %id, step = ?ledger.step, "{id} was left half-way; removing it");
            remove(ctx, id).await;
            None
        }
        Step::Ready => Some(take_over(ctx, ledger).await),
        Step::Pausing => Some(finish_pause(ctx, ledger, dir).await),
        Step::Paused => Some(put_to_rest(ctx, ledger, dir).await),
        Step::Crashed => {
            ctx.vmms.end_below(dir).await;
            // It may have been read from what the newest one replaced.
            write(&ledger, dir).await;
            Some(Recovered { ledger, machine: None })
        }
    }
}

/// Sets a directory aside whose ledger cannot be read, unless there is nothing in it to keep.
async fn recover_unreadable(ctx: &Context, id: SandboxId, dir: &Path) {
    ctx.vmms.end_below(dir).await;
    let path = dir.to_owned();
    // A directory without any ledger was being made or removed.
    let is_odd = blocking(move || path.join("ledger.json").exists() && !Ledger::is_blank(&path)).await;
    if !is_odd {
        return remove(ctx, id).await;
    }
    set_aside(ctx, dir).await;
    // Its VM is ended, and sockets are nothing to keep.
    remove_run_dir(ctx.run_dir.join(id.to_string())).await;
}

/// Finishes or undoes a pause: the name of its capture is the instant at which it is done.
async fn finish_pause(ctx: &Context, ledger: Ledger, dir: &Path) -> Recovered {
    let (store, path) = (ctx.store.clone(), ledger.capture_dir(dir));
    if blocking(move || Capture::open(&store, &path)).await.is_ok() {
        return put_to_rest(ctx, ledger, dir).await;
    }
    let (store, path) = (ctx.store.clone(), dir.to_owned());
    blocking(move || remove_drafts(&store, &path)).await;
    take_over(ctx, ledger).await
}

/// Makes a sandbox paused whose capture counts; whatever else is there is a try that was interrupted.
async fn put_to_rest(ctx: &Context, mut ledger: Ledger, dir: &Path) -> Recovered {
    ctx.vmms.end_below(dir).await;
    let (store, path, generation) = (ctx.store.clone(), dir.to_owned(), ledger.generation);
    blocking(move || {
        remove_drafts(&store, &path);
        release_files(&store, &path, generation);
    })
    .await;
    ledger.step = Step::Paused;
    (ledger.slot, ledger.machine) = (None, None);
    write(&ledger, dir).await;
    Recovered { ledger, machine: None }
}

async fn write(ledger: &Ledger, dir: &Path) {
    let (its, dir) = (ledger.clone(), dir.to_owned());
    if let Err(error) = blocking(move || its.write(&dir)).await {
        tracing::error!(sandbox = %ledger.spec.id, error = cause(&error), "a ledger cannot be written");
    }
}

/// Removes captures that never counted, here or on their way out. Blocks.
fn remove_drafts(store: &Store, dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let half_made = name.ends_with(".gone") || name.ends_with(".new") && entry.path().is_dir();
        if half_made && let Err(error) = store.remove_dir(&entry.path()) {
            tracing::error!(path = %entry.path().display(), error = cause(&error), "a half-made capture does not go");
        }
    }
}

/// Removes what was made apart from any sandbox: an earlier agent's half-made templates, forks and snapshots, and what it had made
/// ahead of time.
async fn remove_half_made(ctx: &Context) {
    let making = ctx.store.making_dir();
    ctx.vmms.end_below(&making).await;
    for path in entries(making).await {
        let run_dir = ctx.run_dir.join(path.file_name().unwrap_or_default());
        let (store, removed) = (ctx.store.clone(), path.clone());
        if let Err(error) = blocking(move || store.remove_dir(&removed)).await {
            tracing::error!(path = %path.display(), error = cause(&error), "something half-made does not go");
        }
        remove_run_dir(run_dir).await;
    }
    let store = ctx.store.clone();
    blocking(move || remove_drafts(&store, &store.snapshot_dir(""))).await;
}

/// Takes a running sandbox over, or one whose VM ended meanwhile.
async fn take_over(ctx: &Context, ledger: Ledger) -> Recovered {
    let id = ledger.spec.id;
    if let Some(number) = ledger.slot {
        // Claimed before orphans are looked for; a network that is gone is noticed by the task.
        let _ = ctx.slots.adopt(number);
    }
    let machine = match ledger.machine.clone() {
        None => None,
        Some(record) => match ctx.driver.adopt(record).await {
            Ok(machine) => machine,
            Err(error) => {
                tracing::error!(sandbox = %id, error = cause(&error), "the VM of {id} does not answer; ending it");
                ctx.vmms.end_below(&ctx.store.sandbox_dir(id)).await;
                None
            }
        },
    };
    Recovered { ledger, machine }
}

async fn entries(dir: PathBuf) -> Vec<PathBuf> {
    let read = move || std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    blocking(read).await
}

/// Lists every entry below sandboxes/, with its id when its name is one.
async fn sandbox_dirs(ctx: &Context) -> Vec<(Option<SandboxId>, PathBuf)> {
    let id = |path: &Path| path.file_name()?.to_str()?.parse().ok();
    entries(ctx.store.root().join("sandboxes")).await.into_iter().map(|path| (id(&path), path)).collect()
}

async fn set_aside(ctx: &Context, dir: &Path) {
    let (store, path) = (ctx.store.clone(), dir.to_owned());
    match blocking(move || store.quarantine(&path)).await {
        Ok(to) => {
            let (from, to) = (dir.display(), to.display());
            tracing::error!(%from, %to, "something odd was set aside; look at it and remove it");
        }
        Err(error) => tracing::error!(error = cause(&error), "something odd could not be set aside"),
    }
}

async fn remove(ctx: &Context, id: SandboxId) {
    if let Err(error) = try_remove_files(ctx, id).await {
        tracing::error!(sandbox = %id, error = cause(&error), "the files of {id} do not go");
    }
}

/// Not everything of an instance could be removed.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Removes every sandbox and everything of this instance on the machine.
///
/// # Errors
/// A network or the store's mount does not go.
pub async fn purge(ctx: &Context) -> Result<(), PurgeError> {
    remove_half_made(ctx).await;
    for (id, dir) in sandbox_dirs(ctx).await {
        match id {
            Some(id) => remove(ctx, id).await,
            None => set_aside(ctx, &dir).await,
        }
    }
    ctx.slots.discard_orphans().await?;
    ctx.slots.close().await?;
    remove_run_dir(ctx.run_dir.clone()).await;
    let store = ctx.store.clone();
    Ok(blocking(move || store.close()).await?)
}
