//! Guests loaded ahead of time. A warm VM has everything a new sandbox of its capture needs: network, disk, and a VMM that has
//! loaded memory and device state, has run its first command if it is a template's, and stands still. A create takes one, moves its
//! files into the sandbox's directory, and lets it go on.
//!
//! ```text
//! making/<uuid>/{disk,memory,vmm.log}  ->  sandboxes/<id>/{disk,memory,vmm.log}     (renames: the VMM has them open)
//! ```
//! A create without one starts its own VMM. A later agent removes those it finds, like everything half-made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use wrenn_domain::ids::SandboxId;
use wrenn_vmm::Machine;

use super::error::StartError;
use super::guest_init::{Started, init_guest};
use super::live::{PartialStart, random_token};
use super::machine::{MachineSizes, machine_spec, run_dir};
use super::pool::Poolable;
use super::teardown::release_partial;
use crate::blocking::blocking;
use crate::context::Context;
use crate::faults::Point;
use crate::guest::{self, GuestClient};
use crate::ledger::{Ledger, SandboxSpec};
use crate::network::Slot;
use crate::storage::{Capture, Disk, StorageError, memory_path};

/// One guest that waits to become a sandbox.
pub struct WarmVm {
    slot: Box<dyn Slot>,
    machine: Arc<dyn Machine>,
    /// The way to a guest that has run its first command.
    guest: Option<Arc<GuestClient>>,
    disks: Vec<Disk>,
    dir: PathBuf,
}

impl Poolable for WarmVm {
    type Kind = Capture;
    /// Path and age: a path can be made anew with other content.
    type Key = (PathBuf, i64);
    const WHAT: &'static str = "guest";
    const WARM_FOR: Duration = Duration::from_secs(600);

    fn key(capture: &Capture) -> Self::Key {
        (capture.path().to_owned(), capture.manifest.created_at_ms)
    }

    fn can_be_made(capture: &Capture) -> bool {
        capture.is_there()
    }

    fn is_alive(&self) -> bool {
        self.machine.ended().now_or_never().is_none()
    }

    fn make<'a>(ctx: &'a Context, capture: &'a Capture) -> BoxFuture<'a, Result<Self, StartError>> {
        Box::pin(async move {
            let mut partial = PartialStart::default();
            match make(ctx, capture, &mut partial).await {
                Ok(made) => Ok(made),
                Err(error) => {
                    release_partial(ctx, partial).await;
                    Err(error)
                }
            }
        })
    }

    fn discard(self, ctx: &Context) -> BoxFuture<'_, ()> {
        let mut partial = PartialStart::default();
        self.move_into(&mut partial);
        Box::pin(release_partial(ctx, partial))
    }
}

async fn make(ctx: &Context, capture: &Capture, partial: &mut PartialStart) -> Result<WarmVm, StartError> {
    let permit = ctx.start_load.permit().await;
    let dir = ctx.store.making_dir().join(uuid::Uuid::new_v4().to_string());
    partial.scratch = Some(dir.clone());
    let (store, its, target) = (ctx.store.clone(), capture.clone(), dir.clone());
    let laid_out = blocking(move || {
        store.admit()?;
        let made = std::fs::create_dir_all(&target);
        made.map_err(|source| StorageError::File { act: "create", path: target.clone(), source })?;
        its.give(&memory_path(&target), &target)
    });
    partial.disks = laid_out.await?;
    let slot = partial.slot.insert(ctx.slots.take().await?);
    let spec = machine_spec(ctx, &dir, MachineSizes::of(&capture.manifest), &partial.disks, &**slot).await?;
    let machine = ctx.driver.restore(spec, capture.state()).await?;
    partial.machine = Some(Arc::clone(&machine));
    drop(permit);
    if is_template(ctx, capture) {
        partial.guest = Some(warm_up(ctx, capture, &**slot, &machine).await?);
    }
    let (guest, slot, disks) = (partial.guest.take(), partial.slot.take(), std::mem::take(&mut partial.disks));
    (partial.machine, partial.scratch) = (None, None);
    Ok(WarmVm { slot: slot.expect("it was put there above"), machine, guest, disks, dir })
}

/// Whether a capture is a template's. A guest that a user has captured stands still until somebody wants it: its processes are
/// the user's to run.
fn is_template(ctx: &Context, capture: &Capture) -> bool {
    capture.path().starts_with(ctx.store.template_dir(""))
}

/// Lets a template's guest do once what every new sandbox does first, under a name of its own. The sandbox it becomes gets another:
/// that is what makes two copies of one memory different, here as there.
async fn warm_up(
    ctx: &Context,
    capture: &Capture,
    slot: &dyn Slot,
    machine: &Arc<dyn Machine>,
) -> Result<Arc<GuestClient>, StartError> {
    let manifest = &capture.manifest;
    let spec = SandboxSpec {
        template: manifest.template.clone(),
        vcpus: manifest.vcpus,
        memory_mib: manifest.memory_mib,
        disk_mib: u32::try_from(manifest.disk_bytes() >> 20).unwrap_or(u32::MAX),
        default_user: manifest.default_user.clone(),
        default_env: manifest.default_env.clone(),
        ..SandboxSpec::empty(SandboxId::from_uuid(uuid::Uuid::new_v4()))
    };
    let mut ledger = Ledger::begin(spec, random_token().ok_or(StartError::Random)?);
    ledger.workdir.clone_from(&manifest.default_workdir);
    ledger.lifecycle = uuid::Uuid::new_v4().to_string();
    let guest = GuestClient::new(slot.sockets()?, &manifest.token).map_err(StartError::Unreachable)?;
    machine.resume().await?;
    let started = Started::Restored { disk_bytes: manifest.disk_bytes() };
    init_guest(ctx, &ledger, &started, &guest, machine).await?;
    guest::warm_up(&guest).await.map_err(StartError::Unreachable)?;
    // Also what the image started by itself: it is to run as the sandbox this becomes, not before.
    guest::freeze(&guest).await;
    machine.pause().await?;
    Ok(Arc::new(guest))
}

impl WarmVm {
    /// Hands everything over to a start, which gives it back should it fail.
    pub fn move_into(self, partial: &mut PartialStart) {
        let Self { slot, machine, guest, disks, dir } = self;
        let (slot, machine, scratch) = (Some(slot), Some(machine), Some(dir));
        *partial = PartialStart { slot, machine, guest, disks, vmm: None, scratch };
    }
}

/// Makes the files of a warm VM those of the sandbox whose directory this is; returns its disks. The VMM has them open and does not
/// notice.
///
/// # Errors
/// A file cannot be moved.
pub async fn claim_files(
    ctx: &Context,
    dir: &Path,
    machine: &Arc<dyn Machine>,
    disks: &[Disk],
    scratch: &Path,
) -> Result<Vec<Disk>, StorageError> {
    let (store, made, target) = (ctx.store.clone(), disks.to_vec(), dir.to_owned());
    let hand_over = move |disk: &Disk| store.disks_of(disk.kind()).hand_over(disk, &target);
    let disks = blocking(move || made.iter().map(hand_over).collect::<Result<Vec<_>, _>>()).await?;
    ctx.faults.reach(Point::CreateMoved, Some(machine.record().process.pid));
    rename(memory_path(scratch), memory_path(dir)).await?;
    rename(scratch.join("vmm.log"), dir.join("vmm.log")).await?;
    let run_dir = run_dir(ctx, dir);
    rename(machine.record().run_dir, run_dir.clone()).await?;
    machine.moved(run_dir, memory_path(dir));
    Ok(disks)
}

async fn rename(from: PathBuf, to: PathBuf) -> Result<(), StorageError> {
    let path = from.clone();
    let renamed = blocking(move || std::fs::rename(from, to)).await;
    renamed.map_err(|source| StorageError::File { act: "move", path, source })
}
