//! Guests loaded ahead of time. A spare has everything a new sandbox of its capture needs: network, disk, and a VMM that has
//! loaded memory and device state, has run its first command if it is a template's, and stands still. A create takes one, moves its files into the sandbox's directory, and lets
//! it go on.
//!
//! ```text
//! making/<uuid>/{disk,memory,vmm.log}  ->  sandboxes/<id>/{disk,memory,vmm.log}     (renames: the VMM has them open)
//! ```
//! A create without a spare starts its own VMM. A successor removes those it finds, like everything half-made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use wrenn_domain::ids::SandboxId;
use wrenn_linux::netns::Netns;
use wrenn_vmm::Machine;

use super::birth::{Begun, BirthError, Source, greet, machine_spec, random_token};
use super::runner::stop;
use super::stock::Ware;
use crate::context::Context;
use crate::faults::{Faults, Point};
use crate::guest::{self, GuestClient};
use crate::ledger::{Ledger, Wish};
use crate::network::{NetworkError, Slot};
use crate::storage::{Capture, StorageError};

/// One guest that waits.
pub struct Spare {
    pub slot: Slot,
    pub machine: Arc<dyn Machine>,
    /// Of one that has rehearsed.
    pub guest: Option<Arc<GuestClient>>,
    dir: PathBuf,
}

impl Ware for Spare {
    type Kind = Capture;
    /// Place and age: a place can be made anew with other content.
    type Key = (PathBuf, i64);
    const WHAT: &'static str = "guest";
    const WARM_FOR: Duration = Duration::from_secs(600);

    fn key(capture: &Capture) -> Self::Key {
        (capture.place().to_owned(), capture.manifest.created_at_ms)
    }

    fn is_there(capture: &Capture) -> bool {
        capture.is_there()
    }

    fn is_alive(&self) -> bool {
        self.machine.ended().now_or_never().is_none()
    }

    fn make<'a>(ctx: &'a Context, capture: &'a Capture) -> BoxFuture<'a, Result<Self, BirthError>> {
        Box::pin(make(ctx, capture))
    }

    fn discard(self, ctx: &Context) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            stop(ctx, Some(self.slot), Some(self.machine)).await;
            remove(&self.dir);
        })
    }
}

async fn make(ctx: &Context, capture: &Capture) -> Result<Spare, BirthError> {
    ctx.store.admit()?;
    let _turn = ctx.templates.births.acquire().await.map_err(|_| BirthError::Random)?;
    let name = uuid::Uuid::new_v4().to_string();
    let dir = ctx.store.making_dir().join(&name);
    let mut begun = Begun::default();
    let made = async {
        std::fs::create_dir_all(&dir).map_err(|source| StorageError::File {
            act: "create",
            path: dir.clone(),
            source,
        })?;
        capture.give(&dir.join("memory"), &dir.join("disk"))?;
        let slot = begun.slot.insert(ctx.slots.take().await?);
        let spec = machine_spec(ctx, &dir, capture.manifest.vcpus, capture.manifest.memory_mib, slot)?;
        let machine = Arc::clone(begun.machine.insert(ctx.driver.restore(spec, capture.state()).await?));
        let guest = match is_template(ctx, capture) {
            true => Some(rehearse(ctx, capture, slot, &machine).await?),
            false => None,
        };
        Ok::<_, BirthError>((machine, guest))
    };
    let made = made.await;
    match made {
        Ok((machine, guest)) => {
            let slot = begun.slot.take().ok_or(BirthError::Random)?;
            Ok(Spare { slot, machine, guest, dir })
        }
        Err(error) => {
            stop(ctx, begun.slot, begun.machine).await;
            remove(&dir);
            let _ = std::fs::remove_dir_all(ctx.run_dir.join(&name));
            Err(error)
        }
    }
}

/// What users have made stands still until somebody wants it: its processes are theirs to run.
fn is_template(ctx: &Context, capture: &Capture) -> bool {
    capture.place().starts_with(ctx.store.template_dir(""))
}

/// Lets a template's guest do once what every new sandbox does first, under a name of its own. The sandbox it becomes gets another:
/// that is what makes two copies of one memory different, here as there.
async fn rehearse(
    ctx: &Context,
    capture: &Capture,
    slot: &Slot,
    machine: &Arc<dyn Machine>,
) -> Result<Arc<GuestClient>, BirthError> {
    let manifest = &capture.manifest;
    let wish = Wish {
        id: SandboxId::from_uuid(uuid::Uuid::new_v4()),
        template: manifest.template.clone(),
        vcpus: manifest.vcpus,
        memory_mib: manifest.memory_mib,
        disk_mib: u32::try_from(manifest.disk_bytes >> 20).unwrap_or(u32::MAX),
        timeout_sec: 0,
        default_user: manifest.default_user.clone(),
        default_env: manifest.default_env.clone(),
        snapshot: None,
    };
    let mut ledger = Ledger::begin(wish, random_token()?);
    ledger.workdir.clone_from(&manifest.default_workdir);
    ledger.lifecycle = uuid::Uuid::new_v4().to_string();
    let netns = Arc::new(Netns::open(slot.netns().name()).map_err(NetworkError::from)?);
    let guest = Arc::new(GuestClient::new(netns, &manifest.token));
    machine.resume().await?;
    greet(ctx, &ledger, &Source::Capture(Box::new(capture.clone())), None, &guest, machine).await?;
    guest::rehearse(&guest).await.map_err(|source| BirthError::Guest { console: String::new(), source })?;
    machine.pause().await?;
    Ok(guest)
}

/// Removes the files of something that was made ahead of time.
pub fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::error!(place = %dir.display(), error = &error as &dyn std::error::Error, "the files of something made ahead of time do not go");
    }
}

impl Spare {
    /// Makes its files those of the sandbox whose directory this is. The VMM has them open and does not notice.
    pub fn move_into(&self, dir: &Path, run_dir: &Path, faults: &Faults) -> Result<(), StorageError> {
        let rename = |from: &Path, to: &Path| {
            let failed = |source| StorageError::File { act: "move", path: from.to_owned(), source };
            std::fs::rename(from, to).map_err(failed)
        };
        let moved = (|| {
            rename(&self.dir.join("disk"), &dir.join("disk"))?;
            faults.reach(Point::CreateMoved, Some(self.machine.record().process.pid));
            for name in ["memory", "vmm.log"] {
                rename(&self.dir.join(name), &dir.join(name))?;
            }
            rename(&self.machine.record().run_dir, run_dir)
        })();
        if moved.is_ok() {
            self.machine.moved(run_dir.to_owned(), dir.join("memory"));
        }
        // What was not moved is of no use to anybody.
        remove(&self.dir);
        moved
    }
}
