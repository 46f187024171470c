//! Listens to hosts: one long poll per host, held by the control plane that has the host's watch lease.
//!
//! Every report newer than the row is taken. From time to time, and always after silence, the whole host is compared with
//! its rows: what the host no longer knows is gone, what it holds although its row is over is deleted again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wrenn_domain::ErrorCode;
use wrenn_domain::ids::{HostId, SandboxId};
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_store::StoreError;
use wrenn_store::pg::{Desired, Host, Sandbox, SandboxError};

use crate::context::Context;
use crate::error_chain::chain;
use crate::fleet::{FleetError, HostClient, HostPhase, HostReport, HostReports};
use crate::service::reports;

const HOSTS_EVERY: Duration = Duration::from_secs(10);
const SEEN_EVERY: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Keeps one watch per host row: one is begun for a new row, ended with a removed one, and begun anew where an address changed.
pub(super) async fn run(ctx: Arc<Context>) {
    let mut watches: HashMap<HostId, Watch> = HashMap::new();
    loop {
        match ctx.store.host_list().await {
            Ok(hosts) => {
                update(&ctx, &mut watches, hosts);
                let pause = if watches.is_empty() { PAUSE_MIN } else { HOSTS_EVERY };
                tokio::time::sleep(pause).await;
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot list hosts now");
                tokio::time::sleep(PAUSE_MAX).await;
            }
        }
    }
}

/// The task that listens to one host at one address.
struct Watch {
    address: String,
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn update(ctx: &Arc<Context>, watches: &mut HashMap<HostId, Watch>, hosts: Vec<Host>) {
    let addresses: HashMap<HostId, String> = hosts.iter().map(|host| (host.id, host.address.clone())).collect();
    watches.retain(|id, watch| {
        let stays = addresses.get(id).is_some_and(|address| *address == watch.address);
        if !stays {
            tracing::info!(host = %id, address = watch.address, "the watch of {id} ends: the host is removed or has another address");
            watch.end.cancel();
        }
        stays && !watch.task.is_finished()
    });
    for host in hosts {
        watches.entry(host.id).or_insert_with(|| begin(ctx, host));
    }
}

fn begin(ctx: &Arc<Context>, host: Host) -> Watch {
    let (ctx, end, address) = (ctx.clone(), ctx.stop.child_token(), host.address.clone());
    let ended = end.clone();
    let task = ctx.tasks.clone().spawn(async move {
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = watch(&ctx, &host) => {}
        }
    });
    Watch { address, end, task }
}

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("listening to the host")]
    Host(#[from] FleetError),
    #[error("writing its news")]
    Store(#[from] StoreError),
}

/// Memory of one watch between two polls.
struct Memory {
    revision: u64,
    /// Newest report taken or found useless, per sandbox. What was useless may be of use later, so the full comparisons forget this.
    taken: HashMap<SandboxId, (i64, HostPhase)>,
    /// Sandboxes of the host that are no rows here.
    strange: HashSet<SandboxId>,
    facts_at: Option<Instant>,
    compared_at: Option<Instant>,
    seen_at: Option<Instant>,
    silent: bool,
}

impl Memory {
    fn blank() -> Self {
        Self {
            revision: 0,
            taken: HashMap::new(),
            strange: HashSet::new(),
            facts_at: None,
            compared_at: None,
            seen_at: None,
            silent: false,
        }
    }

    /// Warns once that the host reports a sandbox of another host.
    fn warn_of_foreign(&mut self, host: HostId, id: SandboxId) {
        if self.strange.insert(id) {
            tracing::warn!(sandbox = %id, %host, "{host} reports {id}, which is not one of its own; the report counts for nothing");
        }
    }

    /// Warns once that the host holds a sandbox without a row: another installation's, or a restored database's.
    fn warn_of_unknown(&mut self, id: SandboxId) {
        if self.strange.insert(id) {
            tracing::warn!(sandbox = %id, "the host holds {id}, which this database does not know");
        }
    }
}

async fn watch(ctx: &Arc<Context>, host: &Host) {
    let mut memory = Memory::blank();
    let mut pause = PAUSE_MIN;
    loop {
        match ctx.store.host_watch(host.id, ctx.owner, ctx.tuning.watch_lease).await {
            Ok(true) => {}
            Ok(false) => {
                memory = Memory::blank();
                tokio::time::sleep((ctx.tuning.watch_lease / 5).min(PAUSE_MAX)).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(host = %host.id, error = %chain(&error), "cannot lease the watch of {}", host.id);
                tokio::time::sleep(PAUSE_MAX / 4).await;
                continue;
            }
        }
        match poll(ctx, host, &mut memory).await {
            Ok(()) => {
                if memory.silent {
                    tracing::info!(host = %host.id, address = %host.address, "the host answers again");
                    if let Err(error) = ctx.store.work_hurry(host.id).await {
                        tracing::warn!(host = %host.id, error = %chain(&error), "cannot hurry the work of {}", host.id);
                    }
                    ctx.queues.wake_all();
                }
                memory.silent = false;
                pause = PAUSE_MIN;
            }
            Err(error) => {
                let silent = matches!(error, WatchError::Host(_));
                if silent && !memory.silent {
                    tracing::warn!(host = %host.id, address = %host.address, error = %chain(&error), "the host does not answer");
                } else if !silent {
                    tracing::warn!(host = %host.id, error = %chain(&error), "cannot take the host's news now");
                }
                memory = Memory { silent: silent || memory.silent, ..Memory::blank() };
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn poll(ctx: &Arc<Context>, host: &Host, memory: &mut Memory) -> Result<(), WatchError> {
    let client = ctx.fleet.host(&host.address)?;
    if is_over(memory.facts_at, ctx.tuning.compare_every) {
        let facts = client.get_host().await?;
        ctx.store.host_seen(host.id, Some(&facts)).await?;
        memory.facts_at = Some(Instant::now());
        memory.seen_at = memory.facts_at;
    }
    // Rows are read before the host is asked: what it then does not know it has lost.
    let before = match is_over(memory.compared_at, ctx.tuning.compare_every) {
        true => Some(ctx.store.sandbox_list_by_host(host.id).await?),
        false => None,
    };
    let since = if before.is_some() { 0 } else { memory.revision };
    let listed = client.list_sandboxes(since, ctx.tuning.watch_wait).await?;
    if is_over(memory.seen_at, SEEN_EVERY) {
        ctx.store.host_seen(host.id, None).await?;
        memory.seen_at = Some(Instant::now());
    }
    if before.is_some() {
        memory.taken.clear();
    }
    take_reports(ctx, host.id, &client, memory, &listed).await?;
    if let Some(rows) = before {
        take_absences(ctx, rows, &listed).await?;
        memory.compared_at = Some(Instant::now());
    }
    memory.revision = listed.revision;
    Ok(())
}

async fn take_reports(
    ctx: &Arc<Context>,
    host: HostId,
    client: &HostClient,
    memory: &mut Memory,
    listed: &HostReports,
) -> Result<(), WatchError> {
    let key = |report: &HostReport| (report.mark.generation, report.phase);
    let fresh: Vec<&HostReport> =
        listed.reports.iter().filter(|report| memory.taken.get(&report.id) != Some(&key(report))).collect();
    if !fresh.is_empty() {
        let ids: Vec<SandboxId> = fresh.iter().map(|report| report.id).collect();
        let mut rows: HashMap<SandboxId, Sandbox> =
            ctx.store.sandbox_list_by_id(&ids).await?.into_iter().map(|row| (row.id, row)).collect();
        for report in fresh {
            match rows.remove(&report.id) {
                // A host speaks for its own sandboxes alone: whoever took one over would else stop those of all others.
                Some(row) if row.host != Some(host) => memory.warn_of_foreign(host, report.id),
                Some(row) => {
                    let row = reports::take(ctx, row, report).await?;
                    if row.is_some_and(|row| is_leftover(&row, report.phase)) {
                        delete_leftover(client, report.id).await?;
                    }
                }
                // Another installation's, or a restored database's: never ours to delete.
                None => memory.warn_of_unknown(report.id),
            }
            memory.taken.insert(report.id, key(report));
        }
    }
    let known: HashSet<SandboxId> = listed.reports.iter().map(|report| report.id).collect();
    memory.taken.retain(|id, _| known.contains(id));
    memory.strange.retain(|id| known.contains(id));
    Ok(())
}

/// The row is over but the host still spends something on it.
fn is_leftover(row: &Sandbox, phase: HostPhase) -> bool {
    match row.state {
        SandboxState::Stopped => match phase {
            HostPhase::Starting | HostPhase::Running | HostPhase::Crashed => true,
            // Holds what its user may still want: only somebody's wish ends it, never a host that lost sight of it for a while.
            HostPhase::Pausing | HostPhase::Paused | HostPhase::Resuming => row.desired == Desired::Stopped,
            HostPhase::Stopping | HostPhase::Gone | HostPhase::Failed => false,
        },
        // A crashed one keeps its disk until its user deletes it, or has it booted again.
        SandboxState::Error => !row.disk_kept && matches!(phase, HostPhase::Starting | HostPhase::Running),
        _ => false,
    }
}

async fn delete_leftover(client: &HostClient, id: SandboxId) -> Result<(), WatchError> {
    tracing::warn!(sandbox = %id, "{id} is over but its host still has it; deleting it there");
    client.delete_sandbox(id).await?;
    Ok(())
}

/// Rows the host no longer knows. A starting one is left to the starter, which asks for it again, or to its fork until that is over.
async fn take_absences(ctx: &Arc<Context>, rows: Vec<Sandbox>, listed: &HostReports) -> Result<(), WatchError> {
    for row in rows {
        let is_coming = row.state == SandboxState::Starting && (row.parent.is_none() || row.fork.is_some());
        if is_coming || listed.reports.iter().any(|report| report.id == row.id) {
            continue;
        }
        let lost = row.state != SandboxState::Stopping;
        let why = lost.then(|| SandboxError::ended("its host no longer has it", ErrorCode::HostUnavailable));
        if lost {
            tracing::warn!(sandbox = %row.id, state = %row.state, "the host of {} no longer has it", row.id);
        }
        reports::take_event(ctx, row.id, &row, SandboxEvent::Gone, why).await?;
    }
    Ok(())
}

fn is_over(since: Option<Instant>, every: Duration) -> bool {
    since.is_none_or(|at| at.elapsed() >= every)
}
