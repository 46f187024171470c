//! VMMs started ahead of time that hold no guest yet, for whatever starts from a capture next: above all a resume, whose guest cannot
//! be loaded before it is asked for.
//!
//! ```text
//! making/<uuid>/vmm.log  ->  sandboxes/<id>/vmm.log     (a rename: the VMM has it open)
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use wrenn_vmm::VmmError;

use super::error::StartError;
use super::live::PartialStart;
use super::machine::{MachineSizes, machine_frame, run_dir};
use super::pool::Poolable;
use super::teardown::{release_partial, remove_run_dir};
use crate::blocking::blocking;
use crate::context::Context;
use crate::network::Slot;
use crate::storage::StorageError;

/// One VMM that waits for a guest.
pub struct PrestartedVmm {
    slot: Box<dyn Slot>,
    vmm: Box<dyn wrenn_vmm::PrestartedVmm>,
    dir: PathBuf,
}

impl Poolable for PrestartedVmm {
    type Kind = MachineSizes;
    type Key = MachineSizes;
    const WHAT: &'static str = "VMM";
    // A paused sandbox may be resumed much later than others are created.
    const WARM_FOR: Duration = Duration::from_secs(3600);

    fn key(sizes: &MachineSizes) -> MachineSizes {
        *sizes
    }

    fn can_be_made(_: &MachineSizes) -> bool {
        true
    }

    fn is_alive(&self) -> bool {
        self.vmm.is_alive()
    }

    fn make<'a>(ctx: &'a Context, sizes: &'a MachineSizes) -> BoxFuture<'a, Result<Self, StartError>> {
        Box::pin(async move {
            let mut partial = PartialStart::default();
            match make(ctx, *sizes, &mut partial).await {
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

async fn make(ctx: &Context, sizes: MachineSizes, partial: &mut PartialStart) -> Result<PrestartedVmm, StartError> {
    let dir = ctx.store.making_dir().join(uuid::Uuid::new_v4().to_string());
    partial.scratch = Some(dir.clone());
    let path = dir.clone();
    let made = blocking(move || std::fs::create_dir_all(path)).await;
    made.map_err(|source| StorageError::File { act: "create", path: dir.clone(), source })?;
    let slot = partial.slot.insert(ctx.slots.take().await?);
    let frame = machine_frame(ctx, &dir, sizes, &**slot).await?;
    let run_dir = frame.run_dir.clone();
    let prestart = ctx.driver.prestart().ok_or_else(|| VmmError::new("start", "this VMM needs its guest"))?;
    match prestart.start(frame).await {
        Ok(vmm) => {
            partial.scratch = None;
            let slot = partial.slot.take().expect("it was put there above");
            Ok(PrestartedVmm { slot, vmm, dir })
        }
        Err(error) => {
            remove_run_dir(run_dir).await;
            Err(error.into())
        }
    }
}

impl PrestartedVmm {
    /// Hands everything over to a start, which gives it back should it fail.
    pub fn move_into(self, partial: &mut PartialStart) {
        let Self { slot, vmm, dir } = self;
        (partial.slot, partial.vmm, partial.scratch) = (Some(slot), Some(vmm), Some(dir));
    }
}

/// Makes the VMM of a start that of the sandbox whose directory this is.
///
/// # Errors
/// Its files cannot be renamed; it cannot be used then.
pub async fn claim_vmm(ctx: &Context, dir: &Path, partial: &mut PartialStart) -> Result<(), StorageError> {
    let (Some(vmm), Some(scratch)) = (&mut partial.vmm, &partial.scratch) else { return Ok(()) };
    let (old, new, run_dir) = (vmm.run_dir(), run_dir(ctx, dir), run_dir(ctx, dir));
    let (from, to) = (scratch.join("vmm.log"), dir.join("vmm.log"));
    let moved = blocking(move || {
        // Found by its log from now on, should this be interrupted.
        std::fs::rename(&from, to)?;
        let _ = std::fs::remove_dir_all(&new);
        std::fs::rename(old, new)
    });
    moved.await.map_err(|source| StorageError::File { act: "move", path: scratch.clone(), source })?;
    vmm.moved(run_dir);
    Ok(())
}
