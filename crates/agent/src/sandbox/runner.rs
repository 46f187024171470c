//! The task that owns one sandbox, from its wish until nothing of it is left.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wrenn_domain::ids::SandboxId;
use wrenn_vmm::Machine;

use super::birth::{Begun, Body, give_birth, last_words};
use super::registry::{Registry, Running};
use super::report::Phase;
use crate::guest::GuestClient;
use crate::ledger::{Ledger, Step, Wish};
use crate::network::Slot;

/// A killed VMM is gone at once unless the kernel is in trouble.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// Between two tries to remove what does not go.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A predecessor's sandbox: its ledger, and its machine when that still runs.
pub type Inherited = (Ledger, Option<Arc<dyn Machine>>);

/// Starts the task.
pub fn spawn(registry: &Arc<Registry>, wish: Wish, inherited: Option<Inherited>) {
    let registry = Arc::clone(registry);
    let delete = registry.delete_token(wish.id);
    tokio::spawn(async move {
        let id = wish.id;
        match inherited {
            None => from_birth(&registry, wish, &delete).await,
            Some((ledger, machine)) => from_ledger(&registry, ledger, machine, &delete).await,
        }
        registry.gone(id);
        tracing::info!(sandbox = %id, "{id} is gone");
    });
}

async fn from_birth(registry: &Arc<Registry>, wish: Wish, delete: &CancellationToken) {
    let id = wish.id;
    let mut begun = Begun::default();
    let born = tokio::select! {
        // A delete wins over a birth that ends at the same moment.
        biased;
        () = delete.cancelled() => None,
        born = give_birth(&registry.ctx, wish, &mut begun) => Some(born),
    };
    match born {
        Some(Ok(body)) => live(registry, body, delete).await,
        Some(Err(error)) => {
            tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "{id} could not be made");
            clear(registry, id, begun.slot, begun.machine).await;
            let (reason, code) = error.shown();
            registry.change(id, |report| {
                report.phase = Phase::Failed;
                report.reason = reason;
                report.reason_code = code;
            });
            delete.cancelled().await;
        }
        None => clear(registry, id, begun.slot, begun.machine).await,
    }
}

async fn from_ledger(
    registry: &Arc<Registry>,
    ledger: Ledger,
    machine: Option<Arc<dyn Machine>>,
    delete: &CancellationToken,
) {
    let id = ledger.wish.id;
    let slot = ledger.slot.and_then(|number| registry.ctx.slots.adopt(number).ok());
    match (machine, slot) {
        (Some(machine), Some(slot)) => match wrenn_linux::netns::Netns::open(slot.netns().name()) {
            Ok(netns) => {
                let guest = Arc::new(GuestClient::new(Arc::new(netns), &ledger.token));
                tracing::info!(sandbox = %id, "{id} is taken over");
                live(registry, Body { ledger, slot, machine, guest }, delete).await;
            }
            Err(_) => crashed(registry, id, Some(slot), Some(machine), "its network was lost", delete).await,
        },
        (machine, slot) => {
            let why = "its VM ended while the host's agent was away";
            crashed(registry, id, slot, machine, why, delete).await;
        }
    }
}

/// Hands the sandbox out and waits for its end.
async fn live(registry: &Arc<Registry>, body: Body, delete: &CancellationToken) {
    let Body { ledger, slot, machine, guest } = body;
    let id = ledger.wish.id;
    registry.set_running(id, Some(Running { guest, machine: Arc::clone(&machine) }));
    registry.change(id, |report| {
        report.phase = Phase::Running;
        report.started_at_ms = ledger.started_at_ms;
        report.metadata = ledger.metadata.clone();
    });
    tokio::select! {
        biased;
        () = delete.cancelled() => clear(registry, id, Some(slot), Some(machine)).await,
        () = machine.ended() => {
            let why = format!("its VM ended by itself; its console ends with: {}", last_words(&machine).await);
            crashed(registry, id, Some(slot), Some(machine), &why, delete).await;
        }
    }
}

/// Gives back all but the disk, says what happened, and waits to be deleted.
async fn crashed(
    registry: &Arc<Registry>,
    id: SandboxId,
    slot: Option<Slot>,
    machine: Option<Arc<dyn Machine>>,
    why: &str,
    delete: &CancellationToken,
) {
    tracing::warn!(sandbox = %id, "{id} crashed: {why}");
    registry.set_running(id, None);
    stop(registry, slot, machine).await;
    registry.change(id, |report| {
        report.phase = Phase::Crashed;
        report.reason = format!("the capsule crashed: {why}. Its disk is kept until you delete it");
        report.reason_code = "agent_error";
    });
    delete.cancelled().await;
    remove_files(registry, id).await;
}

async fn clear(registry: &Arc<Registry>, id: SandboxId, slot: Option<Slot>, machine: Option<Arc<dyn Machine>>) {
    registry.set_running(id, None);
    mark_deleting(registry, id);
    stop(registry, slot, machine).await;
    remove_files(registry, id).await;
}

/// From here on a successor only clears up.
fn mark_deleting(registry: &Registry, id: SandboxId) {
    let dir = registry.ctx.store.sandbox_dir(id);
    if let Ok(mut ledger) = Ledger::read(&dir, id) {
        ledger.step = Step::Deleting;
        if let Err(error) = ledger.write(&dir) {
            tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "cannot note that {id} is being deleted");
        }
    }
}

async fn stop(registry: &Registry, slot: Option<Slot>, machine: Option<Arc<dyn Machine>>) {
    if let Some(machine) = machine {
        if let Err(error) = machine.kill(KILL_WAIT).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a VMM does not end");
        }
        let _ = std::fs::remove_dir_all(machine.record().run_dir);
    }
    if let Some(slot) = slot {
        let number = slot.number();
        drop(slot);
        registry.ctx.slots.discard(number).await;
    }
}

/// A VMM whose start was interrupted is found by the sandbox's directory in its arguments.
async fn remove_files(registry: &Registry, id: SandboxId) {
    let mut pause = RETRY_MIN;
    loop {
        let outcome = async {
            super::recovery::kill_users(&registry.ctx.store.sandbox_dir(id)).await;
            registry.ctx.store.remove_sandbox_dir(id)
        };
        let Err(error) = outcome.await else { break };
        tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "the files of {id} do not go; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    let _ = std::fs::remove_dir_all(registry.ctx.run_dir.join(id.to_string()));
}
