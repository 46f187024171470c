//! What a new agent does with what its predecessor left.
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

use std::path::Path;
use std::sync::Arc;

use wrenn_domain::ids::SandboxId;
use wrenn_linux::process::{self, Process};

use super::registry::Registry;
use super::runner::{KILL_WAIT, release_captures_but};
use crate::context::Context;
use crate::ledger::{Ledger, Step};
use crate::network::NetworkError;
use crate::storage::Capture;

/// Reads every ledger and acts on it, then removes networks nobody owns.
pub async fn recover(registry: &Arc<Registry>) -> Result<(), NetworkError> {
    let ctx = Arc::clone(&registry.ctx);
    remove_half_made(&ctx).await;
    for (id, dir) in sandbox_dirs(&ctx) {
        let Some(id) = id else {
            set_aside(&ctx, &dir);
            continue;
        };
        match Ledger::read(&dir, id) {
            Err(error) => {
                tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "the ledger of {id} cannot be read");
                kill_users(&ctx, &dir).await;
                // A directory without any ledger was being made or removed: there is nothing in it to keep.
                let is_odd = dir.join("ledger.json").exists() && !Ledger::is_blank(&dir);
                if is_odd { set_aside(&ctx, &dir) } else { remove(&ctx, id).await }
            }
            Ok(ledger) => match ledger.step {
                Step::Begun | Step::Deleting => {
                    tracing::info!(sandbox = %id, step = ?ledger.step, "{id} was left half-way; removing it");
                    remove(&ctx, id).await;
                }
                Step::Ready => take_over(registry, ledger).await,
                Step::Pausing => finish_pause(registry, ledger, &dir).await,
                Step::Paused => put_to_rest(registry, ledger, &dir).await,
                Step::Crashed => {
                    kill_users(&ctx, &dir).await;
                    // It may have been read from what the newest one replaced.
                    if let Err(error) = ledger.write(&dir) {
                        tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "a ledger cannot be written");
                    }
                    registry.adopt(ledger, None);
                }
            },
        }
    }
    // Adopting tasks claim their slots before anything else, but they are tasks: claimed here already.
    ctx.slots.discard_orphans().await
}

/// The capture's name is the instant at which a pause is done.
async fn finish_pause(registry: &Arc<Registry>, ledger: Ledger, dir: &Path) {
    match Capture::open(&ledger.capture_dir(dir)) {
        Ok(_) => put_to_rest(registry, ledger, dir).await,
        Err(_) => {
            remove_drafts(dir);
            take_over(registry, ledger).await;
        }
    }
}

/// Its capture is the sandbox; whatever else is there is a try that was interrupted.
async fn put_to_rest(registry: &Arc<Registry>, mut ledger: Ledger, dir: &Path) {
    kill_users(&registry.ctx, dir).await;
    for name in ["disk", "memory"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    remove_drafts(dir);
    release_captures_but(dir, Some(&ledger.capture_dir(dir)));
    ledger.step = Step::Paused;
    (ledger.slot, ledger.machine) = (None, None);
    if let Err(error) = ledger.write(dir) {
        tracing::error!(sandbox = %ledger.wish.id, error = &error as &dyn std::error::Error, "a ledger cannot be written");
    }
    registry.adopt(ledger, None);
}

/// Captures that never counted, here or on their way out.
fn remove_drafts(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let half_made = name.ends_with(".gone") || name.ends_with(".new") && entry.path().is_dir();
        if half_made && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::error!(place = %entry.path().display(), error = &error as &dyn std::error::Error, "a half-made capture does not go");
        }
    }
}

/// What was made apart from any sandbox: a predecessor's half-made templates, forks and snapshots.
async fn remove_half_made(ctx: &Context) {
    let making = ctx.store.making_dir();
    kill_users(ctx, &making).await;
    for entry in std::fs::read_dir(&making).into_iter().flatten().flatten() {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::error!(place = %entry.path().display(), error = &error as &dyn std::error::Error, "something half-made does not go");
        }
        let _ = std::fs::remove_dir_all(ctx.run_dir.join(entry.file_name()));
    }
    remove_drafts(&ctx.store.snapshot_dir(""));
}

async fn take_over(registry: &Arc<Registry>, ledger: Ledger) {
    let id = ledger.wish.id;
    if let Some(number) = ledger.slot {
        // Claimed before orphans are looked for.
        let _ = registry.ctx.slots.adopt(number);
    }
    let machine = match ledger.machine.clone() {
        None => None,
        Some(record) => match registry.ctx.driver.adopt(record).await {
            Ok(machine) => machine,
            Err(error) => {
                tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "the VM of {id} does not answer; ending it");
                kill_users(&registry.ctx, &registry.ctx.store.sandbox_dir(id)).await;
                None
            }
        },
    };
    registry.adopt(ledger, machine);
}

/// Every entry below sandboxes/, with its id when its name is one.
fn sandbox_dirs(ctx: &Context) -> Vec<(Option<SandboxId>, std::path::PathBuf)> {
    let entries = std::fs::read_dir(ctx.store.root().join("sandboxes")).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_str().and_then(|name| name.parse().ok()), entry.path())).collect()
}

fn set_aside(ctx: &Context, dir: &Path) {
    match ctx.store.quarantine(dir) {
        Ok(place) => {
            tracing::error!(from = %dir.display(), to = %place.display(), "something odd was set aside; look at it and remove it")
        }
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "something odd could not be set aside"),
    }
}

async fn remove(ctx: &Context, id: SandboxId) {
    kill_users(ctx, &ctx.store.sandbox_dir(id)).await;
    if let Err(error) = ctx.store.remove_sandbox_dir(id) {
        tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "the files of {id} do not go");
    }
    let _ = std::fs::remove_dir_all(ctx.run_dir.join(id.to_string()));
}

/// Ends VMMs of this host's store that have files in this directory.
pub(super) async fn kill_users(ctx: &Context, dir: &Path) {
    let mark = format!("{}/", ctx.store.root().display());
    for identity in process::with_file_below(&mark, dir) {
        let Some(found) = Process::find(identity) else { continue };
        tracing::warn!(pid = identity.pid, "ending a VMM nobody owns");
        if let Err(error) = found.kill(KILL_WAIT).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a VMM does not end");
        }
    }
}

/// Removes every sandbox and everything of this instance on the machine.
pub async fn purge(ctx: &Context) -> Result<(), crate::AgentError> {
    remove_half_made(ctx).await;
    for (id, dir) in sandbox_dirs(ctx) {
        match id {
            Some(id) => remove(ctx, id).await,
            None => set_aside(ctx, &dir),
        }
    }
    ctx.slots.discard_orphans().await?;
    ctx.slots.close().await?;
    let _ = std::fs::remove_dir_all(&ctx.run_dir);
    ctx.store.close()?;
    Ok(())
}
