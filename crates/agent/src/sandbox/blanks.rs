//! VMMs started ahead of time that hold no guest yet, for whatever starts from a capture next: above all a resume, whose guest cannot
//! be loaded before it is asked for.
//!
//! ```text
//! making/<uuid>/vmm.log  ->  sandboxes/<id>/vmm.log     (a rename: the VMM has it open)
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use wrenn_vmm::{Machine, VmmError};

use super::birth::{BirthError, machine_frame};
use super::runner::{KILL_WAIT, stop};
use super::spares::remove;
use super::stock::Ware;
use crate::context::Context;
use crate::network::Slot;
use crate::storage::{Manifest, StorageError};

/// What a VMM must know when it is started.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sizes {
    pub vcpus: u32,
    pub memory_mib: u32,
}

impl Sizes {
    /// Of the machine a capture was made of.
    pub fn of(manifest: &Manifest) -> Self {
        Self { vcpus: manifest.vcpus, memory_mib: manifest.memory_mib }
    }
}

/// One VMM that waits.
pub struct Blank {
    slot: Slot,
    vmm: Box<dyn wrenn_vmm::Blank>,
    dir: PathBuf,
}

/// One that belongs to a sandbox now.
pub struct Filled(Box<dyn wrenn_vmm::Blank>);

impl Ware for Blank {
    type Kind = Sizes;
    type Key = Sizes;
    const WHAT: &'static str = "VMM";
    // Whoever was paused may come back much later than others are created.
    const WARM_FOR: Duration = Duration::from_secs(3600);

    fn key(sizes: &Sizes) -> Sizes {
        sizes.clone()
    }

    fn is_there(_: &Sizes) -> bool {
        true
    }

    fn is_alive(&self) -> bool {
        self.vmm.is_alive()
    }

    fn make<'a>(ctx: &'a Context, sizes: &'a Sizes) -> BoxFuture<'a, Result<Self, BirthError>> {
        Box::pin(async move {
            let name = uuid::Uuid::new_v4().to_string();
            let dir = ctx.store.making_dir().join(&name);
            let mut taken = None;
            let made = async {
                let made = std::fs::create_dir_all(&dir);
                made.map_err(|source| StorageError::File { act: "create", path: dir.clone(), source })?;
                let slot = taken.insert(ctx.slots.take().await?);
                let frame = machine_frame(ctx, &dir, sizes.vcpus, sizes.memory_mib, slot)?;
                Ok::<_, BirthError>(ctx.driver.prepare(frame).await?)
            };
            match (made.await, taken) {
                (Ok(Some(vmm)), Some(slot)) => Ok(Self { slot, vmm, dir }),
                (made, slot) => {
                    stop(ctx, slot, None).await;
                    remove(&dir);
                    let _ = std::fs::remove_dir_all(ctx.run_dir.join(&name));
                    Err(made.err().unwrap_or_else(|| VmmError::new("start", "this VMM needs its guest").into()))
                }
            }
        })
    }

    fn discard(self, ctx: &Context) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            end(&*self.vmm).await;
            stop(ctx, Some(self.slot), None).await;
            remove(&self.dir);
        })
    }
}

async fn end(vmm: &dyn wrenn_vmm::Blank) {
    if let Err(error) = vmm.kill(KILL_WAIT).await {
        tracing::error!(error = &error as &dyn std::error::Error, "a VMM does not end");
    }
    let _ = std::fs::remove_dir_all(vmm.run_dir());
}

impl Blank {
    /// Makes it that of the sandbox whose directory this is. On failure it is removed.
    pub async fn move_into(self, ctx: &Context, dir: &Path, run_dir: &Path) -> Option<(Slot, Filled)> {
        let Self { slot, mut vmm, dir: own } = self;
        // Found by its log from now on, should this be interrupted.
        let moved = std::fs::rename(own.join("vmm.log"), dir.join("vmm.log"));
        let moved = moved.and_then(|()| {
            let _ = std::fs::remove_dir_all(run_dir);
            std::fs::rename(vmm.run_dir(), run_dir)
        });
        remove(&own);
        match moved {
            Ok(()) => {
                vmm.moved(run_dir.to_owned());
                Some((slot, Filled(vmm)))
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a VMM that waited cannot be used");
                end(&*vmm).await;
                stop(ctx, Some(slot), None).await;
                None
            }
        }
    }
}

impl Filled {
    /// Loads a capture whose memory and disk are in the sandbox's directory.
    pub async fn restore(self, dir: &Path, state: PathBuf) -> Result<Arc<dyn Machine>, VmmError> {
        self.0.restore(dir.join("disk"), dir.join("memory"), state).await
    }
}
