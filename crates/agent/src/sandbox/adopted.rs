//! A sandbox that an earlier agent or a fork left: its task goes on with what its ledger says. `recovery` has sorted out before what
//! that can be.

use crate::failure::cause;
use std::sync::Arc;

use wrenn_vmm::Machine;

use super::crashed::crash;
use super::live::RunningSandbox;
use super::prepared_copy::PreparedCopyTask;
use super::task::{Answer, LifeStage, SandboxTask};
use crate::blocking::blocking;
use crate::guest::{GuestClient, notify_resumed};
use crate::ledger::{Ledger, Step};
use crate::network::Slot;

/// Returns the stage in which a sandbox was left.
pub async fn adopted(task: &mut SandboxTask, mut ledger: Ledger, machine: Option<Arc<dyn Machine>>) -> LifeStage {
    match ledger.step {
        Step::Paused => return LifeStage::Paused(Box::new(ledger)),
        Step::Crashed => return LifeStage::Crashed(Box::new(ledger)),
        // The first and the last are removed by recovery and never come here.
        Step::Begun | Step::Ready | Step::Pausing | Step::Deleting => {}
    }
    let slot = ledger.slot.and_then(|number| task.ctx.slots.adopt(number).ok());
    let Some(machine) = machine else {
        return crash(task, ledger, slot, None, "its VM ended while the host's agent was away").await;
    };
    let (Some(slot), Some(guest)) = reach(slot, &ledger) else {
        return crash(task, ledger, None, Some(machine), "its network was lost").await;
    };
    // An interrupted capture left it standing still.
    if let Err(error) = machine.resume().await {
        tracing::error!(sandbox = %task.id, error = cause(&error), "the VM of {} does not go on", task.id);
        return crash(task, ledger, Some(slot), Some(machine), "its VM did not go on").await;
    }
    // An interrupted capture of any kind left its processes standing still.
    notify_resumed(&guest, &ledger.lifecycle).await;
    if ledger.step != Step::Ready {
        ledger.step = Step::Ready;
        task.write(&ledger).await;
    }
    let (store, dir, kinds) = (task.ctx.store.clone(), task.dir(), ledger.disks.clone());
    let disks = match blocking(move || store.adopt_disks(&dir, &kinds)).await {
        Ok(disks) => disks,
        Err(error) => {
            tracing::error!(sandbox = %task.id, error = cause(&error), "the disk of {} is not there", task.id);
            return crash(task, ledger, Some(slot), Some(machine), "its disk was lost").await;
        }
    };
    // Also removes what an interrupted resume or pause left; the running sandbox needs none of it.
    task.settle_in_background();
    tracing::info!(sandbox = %task.id, "{} is taken over", task.id);
    let prepared_copy = PreparedCopyTask::default();
    let sandbox = RunningSandbox { ledger, slot, machine, guest, disks, prepared_copy };
    LifeStage::Running(Box::new(sandbox), Answer::default())
}

/// Opens the way to the guest; both are there or none is.
fn reach(slot: Option<Box<dyn Slot>>, ledger: &Ledger) -> (Option<Box<dyn Slot>>, Option<Arc<GuestClient>>) {
    let Some(slot) = slot else { return (None, None) };
    match slot.sockets().map(|sockets| GuestClient::new(sockets, &ledger.token)) {
        Ok(Ok(guest)) => (Some(slot), Some(Arc::new(guest))),
        Ok(Err(_)) | Err(_) => (None, None),
    }
}
