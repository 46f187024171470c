//! From files to a guest that has confirmed who it is. Nothing else starts a VM for a user.
//!
//! ```text
//! source -> plan (which VMM) -> files laid out -> machine loaded -> unpaused -> initialised -> ledger says ready
//! ```

use crate::failure::cause;
use std::path::Path;
use std::sync::Arc;

use wrenn_vmm::Machine;

use super::error::StartError;
use super::guest_init::{Started, init_guest, metadata};
use super::live::{PartialStart, RunningSandbox};
use super::machine::{MachineSizes, disk_specs, machine_spec};
use super::pools::Pools;
use super::prepared_copy::PreparedCopyTask;
use super::prestarted_vmms::claim_vmm;
use super::report::now_ms;
use super::start_plan::{FaultPoints, Plan, Source, StartKind, inherit};
use super::teardown::{end_vmm, remove_scratch};
use super::warm_vms::claim_files;
use crate::blocking::blocking;
use crate::context::Context;
use crate::guest::{GuestClient, ReadyListener};
use crate::ledger::{Ledger, Step};
use crate::sockets::Sockets;
use crate::storage::{Disk, StorageError, memory_path};

/// A start of the sandbox whose directory is `dir`.
pub struct Start<'a> {
    pub ctx: &'a Arc<Context>,
    pub pools: &'a Pools,
    pub dir: &'a Path,
    pub kind: StartKind,
}

impl Start<'_> {
    /// Starts a guest and waits until it has confirmed. The ledger on disk says ready when this returns.
    ///
    /// # Errors
    /// A step failed; `partial` then has what there is to give back.
    pub async fn run(
        &self,
        mut ledger: Ledger,
        source: Source,
        partial: &mut PartialStart,
    ) -> Result<RunningSandbox, StartError> {
        let (ctx, points) = (self.ctx, self.kind.points());
        let permit = ctx.start_load.permit().await;
        self.take_vmm(Plan::choose(self.pools, &source, self.kind), &source, partial).await?;
        let sockets = self.take_slot(&mut ledger, partial).await?;
        let started = match &source {
            Source::Capture(capture) => Started::Restored { disk_bytes: capture.manifest.disk_bytes() },
            // Before the VM, so that nothing the guest says is missed.
            Source::Image(_) | Source::Disk => {
                Started::Booted(ReadyListener::listen(&sockets).await.map_err(StartError::Unreachable)?)
            }
        };
        if partial.machine.is_none() {
            partial.disks = self.lay_out(&ledger, &source).await?;
        }
        ledger.disks = partial.disks.iter().map(Disk::kind).collect();
        inherit(&mut ledger, &source);
        ctx.faults.reach(points.linked, None);
        let machine = self.machine(&ledger, &source, partial).await?;
        self.unpause(&ledger, &source, &mut partial.disks, &points, &machine).await?;
        // From here on the guest is waited for, and one that never answers must not keep others from starting.
        drop(permit);
        ledger.machine = Some(machine.record());
        ledger.lifecycle = uuid::Uuid::new_v4().to_string();
        ledger.started_at_ms = now_ms();
        let guest = match partial.guest.take() {
            Some(guest) => guest,
            None => client(sockets, &source, &ledger)?,
        };
        let done = init_guest(ctx, &ledger, &started, &guest, &machine).await?;
        ledger.metadata = metadata(ctx, done, matches!(source, Source::Disk));
        let pid = machine.record().process.pid;
        ctx.faults.reach(points.initialized, Some(pid));
        let ledger = self.hand_out(ledger).await?;
        ctx.faults.reach(points.noted, Some(pid));
        let slot = partial.slot.take().expect("a start has its slot from its beginning");
        partial.machine = None;
        let disks = std::mem::take(&mut partial.disks);
        Ok(RunningSandbox { ledger, slot, machine, guest, disks, prepared_copy: PreparedCopyTask::default() })
    }

    /// Takes a network unless there is one, and opens the way to its guest anew: the slot itself stays with whoever clears up.
    async fn take_slot(&self, ledger: &mut Ledger, partial: &mut PartialStart) -> Result<Arc<dyn Sockets>, StartError> {
        let slot = match partial.slot.take() {
            Some(slot) => slot,
            None => self.ctx.slots.take().await?,
        };
        let slot = partial.slot.insert(slot);
        ledger.slot = Some(slot.number());
        Ok(slot.sockets()?)
    }

    /// Makes what was made ahead of time the sandbox's own. `partial` has it before anything is awaited.
    async fn take_vmm(&self, plan: Plan, source: &Source, partial: &mut PartialStart) -> Result<(), StartError> {
        match plan {
            Plan::Boot => return Ok(()),
            Plan::Warm(vm) => {
                vm.move_into(partial);
                if let (Some(machine), Some(scratch)) = (&partial.machine, &partial.scratch) {
                    partial.disks = claim_files(self.ctx, self.dir, machine, &partial.disks, scratch).await?;
                }
            }
            Plan::Prestarted(vmm) => {
                vmm.move_into(partial);
                self.read_ahead(source);
                if let Err(error) = claim_vmm(self.ctx, self.dir, partial).await {
                    tracing::error!(error = cause(&error), "a VMM that was started ahead of time cannot be used");
                    if let Some(vmm) = partial.vmm.take() {
                        end_vmm(&*vmm).await;
                    }
                }
            }
            Plan::Restore => self.read_ahead(source),
        }
        // What was not moved is of no use to anybody.
        if let Some(scratch) = partial.scratch.take() {
            remove_scratch(self.ctx, scratch).await;
        }
        Ok(())
    }

    /// Has the kernel read what the guest will need first, while everything else is made.
    fn read_ahead(&self, source: &Source) {
        if let Source::Capture(capture) = source {
            let capture = capture.clone();
            // Only advice: nobody waits for it.
            tokio::task::spawn_blocking(move || capture.read_ahead());
        }
    }

    /// Puts disks and memory base into the sandbox's directory; what an interrupted try left there goes first.
    async fn lay_out(&self, ledger: &Ledger, source: &Source) -> Result<Vec<Disk>, StorageError> {
        let (dir, disk_mib, kinds) = (self.dir.to_owned(), ledger.spec.disk_mib, ledger.disks.clone());
        let (store, source) = (self.ctx.store.clone(), source.clone());
        blocking(move || {
            let memory = memory_path(&dir);
            let _ = std::fs::remove_file(&memory);
            match source {
                Source::Disk => store.adopt_disks(&dir, &kinds),
                Source::Image(image) => Ok(vec![store.create_disk(&image.rootfs, image.bytes, &dir, disk_mib)?]),
                Source::Capture(capture) => capture.give(&memory, &dir),
            }
        })
        .await
    }

    /// Returns the machine with the source in it; `partial` has it too.
    async fn machine(
        &self,
        ledger: &Ledger,
        source: &Source,
        partial: &mut PartialStart,
    ) -> Result<Arc<dyn Machine>, StartError> {
        if let Some(machine) = &partial.machine {
            return Ok(Arc::clone(machine));
        }
        let machine = match (source, partial.vmm.take()) {
            (Source::Capture(capture), Some(vmm)) => {
                let restored = vmm.restore(disk_specs(&partial.disks), memory_path(self.dir), capture.state()).await;
                match restored {
                    Ok(machine) => machine,
                    // One that is started for this capture says better what is wrong, or works.
                    Err(error) => {
                        tracing::warn!(sandbox = %ledger.spec.id, error = cause(&error), "a VMM started ahead of time does not take its guest");
                        self.new_machine(ledger, source, partial).await?
                    }
                }
            }
            _ => self.new_machine(ledger, source, partial).await?,
        };
        partial.machine = Some(Arc::clone(&machine));
        Ok(machine)
    }

    async fn new_machine(
        &self,
        ledger: &Ledger,
        source: &Source,
        partial: &PartialStart,
    ) -> Result<Arc<dyn Machine>, StartError> {
        let slot = partial.slot.as_deref().expect("a start has its slot before its machine");
        let sizes = MachineSizes { vcpus: ledger.spec.vcpus, memory_mib: ledger.spec.memory_mib };
        let spec = machine_spec(self.ctx, self.dir, sizes, &partial.disks, slot).await?;
        Ok(match source {
            Source::Image(_) | Source::Disk => self.ctx.driver.boot(spec).await?,
            Source::Capture(capture) => self.ctx.driver.restore(spec, capture.state()).await?,
        })
    }

    /// Lets a loaded guest go on; a booted one runs already.
    async fn unpause(
        &self,
        ledger: &Ledger,
        source: &Source,
        disks: &mut [Disk],
        points: &FaultPoints,
        machine: &Arc<dyn Machine>,
    ) -> Result<(), StartError> {
        let pid = machine.record().process.pid;
        self.ctx.faults.reach(points.loaded, Some(pid));
        if let Source::Capture(_) = source {
            let bytes = u64::from(ledger.spec.disk_mib) << 20;
            // The size that is asked for is the first disk's.
            if let Some(disk) = disks.first_mut()
                && bytes > disk.bytes()
            {
                let (store, small) = (self.ctx.store.clone(), disk.clone());
                *disk = blocking(move || store.disks_of(small.kind()).grow(&small, bytes)).await?;
                machine.grow_disk(0, bytes).await?;
            }
            machine.resume().await?;
        }
        self.ctx.faults.reach(points.running, Some(pid));
        Ok(())
    }

    /// Writes that the guest is ready.
    async fn hand_out(&self, mut ledger: Ledger) -> Result<Ledger, StartError> {
        ledger.step = Step::Ready;
        ledger.never_started = false;
        ledger.crash.clear();
        let dir = self.dir.to_owned();
        Ok(blocking(move || ledger.hand_out(&dir).map(|()| ledger)).await?)
    }
}

/// Makes the client of a guest that nobody has called yet, with the token it knows.
fn client(sockets: Arc<dyn Sockets>, source: &Source, ledger: &Ledger) -> Result<Arc<GuestClient>, StartError> {
    let known = match source {
        Source::Capture(capture) => &capture.manifest.token,
        Source::Image(_) | Source::Disk => &ledger.token,
    };
    GuestClient::new(sockets, known).map(Arc::new).map_err(StartError::Unreachable)
}
