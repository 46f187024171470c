//! Where a new sandbox goes: [`policy`] chooses (pure), [`assign`] writes the choice with a reservation. Whether one that is bound
//! to its host may run there (again) or be doubled: [`readmit`], [`fork`].
//!
//! Must never: call a host. A choice that turns out full is made again.

pub mod policy;

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::names::TemplateName;
use wrenn_store::pg::{
    Change, Forked, HostLoad, NewFork, NewSandbox, Placed, Quota, QuotaRefusal, Readmitted, Sandbox,
};
use wrenn_store::{Store, StoreError};

use policy::{Need, Shortage, Source};

/// Why no place was found.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// No host can take it now; the sentence is for the user.
    #[error("{0}")]
    NoRoom(Failure),
    /// The team may not use as much.
    #[error("the team's bounds do not allow it")]
    Refused(QuotaRefusal),
    /// The team was deleted.
    #[error("the team is gone")]
    TeamGone,
    /// The template was deleted.
    #[error("the template {0} is gone")]
    TemplateGone(TemplateName),
    #[error("placing a sandbox")]
    Store(#[from] StoreError),
}

/// Choices made before giving up: each lost one means somebody else took the room in between.
const CHOICES_MAX: usize = 5;

/// Chooses a host and writes the sandbox there, within what the team may use. The row is leased to `owner` for `keep`.
///
/// # Errors
/// When no host can take it, the team may not use as much, the team or template is gone, or the database is away.
pub async fn assign(
    store: &Store,
    disk_overcommit: u64,
    new: &NewSandbox,
    source: Source,
    owner: Uuid,
    keep: Duration,
    quota: &dyn Quota,
) -> Result<(Sandbox, String), AssignError> {
    let need = Need {
        template: new.template.clone(),
        source,
        vcpus: new.vcpus,
        memory: new.memory,
        disk: new.disk,
        disk_overcommit,
    };
    for _ in 0..CHOICES_MAX {
        let loads = store.host_loads().await?;
        let host = policy::choose(&loads, &need)
            .map_err(|why| AssignError::NoRoom(too_large(&loads, &need).unwrap_or_else(|| explain(why, &need))))?;
        let fits = |load: &HostLoad| policy::fits(load, &need).is_ok();
        match store.sandbox_insert_within(new, host.host, fits, owner, keep, quota).await? {
            Placed::Here(sandbox) => return Ok((*sandbox, host.address.clone())),
            Placed::Refused(refusal) => return Err(AssignError::Refused(refusal)),
            Placed::TeamGone => return Err(AssignError::TeamGone),
            Placed::TemplateGone => return Err(AssignError::TemplateGone(new.template.clone())),
            Placed::Full => tracing::debug!(host = %host.host, "the chosen host filled up; choosing again"),
        }
    }
    Err(AssignError::NoRoom(explain(Shortage::Memory, &need)))
}

/// Changes a paused or crashed sandbox so that it runs again, if its host has room.
///
/// # Errors
/// When the database cannot be asked.
pub async fn readmit(
    store: &Store,
    disk_overcommit: u64,
    sandbox: &Sandbox,
    change: &Change,
    quota: &dyn Quota,
) -> Result<Readmitted, AssignError> {
    let need = need_of(sandbox, Source::Itself, disk_overcommit);
    Ok(store.sandbox_readmit(sandbox, change, |load| policy::fits(load, &need).is_ok(), quota).await?)
}

/// Reserves as many children of a sandbox as its host has room for.
///
/// # Errors
/// When the database cannot be asked.
pub async fn fork(
    store: &Store,
    disk_overcommit: u64,
    source: &Sandbox,
    new: &NewFork,
    quota: &dyn Quota,
) -> Result<Forked, AssignError> {
    let Some(host) = source.host else { return Ok(Forked::HostAway) };
    let need = need_of(source, Source::OnHost(host), disk_overcommit);
    Ok(store.fork_begin(source, new, |load| policy::fits(load, &need).is_ok(), quota).await?)
}

fn need_of(sandbox: &Sandbox, source: Source, disk_overcommit: u64) -> Need {
    Need {
        template: sandbox.template.clone(),
        source,
        vcpus: sandbox.vcpus,
        memory: sandbox.memory,
        disk: sandbox.disk,
        disk_overcommit,
    }
}

/// Refuses for good, because waiting does not help, when no host that is online could hold it even if it were empty.
fn too_large(loads: &[HostLoad], need: &Need) -> Option<Failure> {
    if loads.is_empty() || loads.iter().any(|load| policy::could_ever_fit(load, need)) {
        return None;
    }
    let text = format!(
        "no host of this installation can ever hold a capsule of {} vCPUs, {} MiB of memory and a disk of {} MiB; ask for less",
        need.vcpus.get(),
        need.memory.get(),
        need.disk.get()
    );
    Some(Failure::new(FailureKind::Unsatisfiable, text))
}

fn explain(why: Shortage, need: &Need) -> Failure {
    let text = match why {
        Shortage::NoHost => "no host is online; check that the host agent runs and is reachable".to_owned(),
        Shortage::Template => format!("no online host holds the template {}; try again later", need.template),
        Shortage::Vcpus => format!("no host has enough CPU cores for {} vCPUs; ask for fewer", need.vcpus.get()),
        Shortage::Memory => format!(
            "no host has {} MiB of memory free now; try again later, delete capsules, or ask for less",
            need.memory.get()
        ),
        Shortage::Disk => format!("no host has room for a disk of {} MiB; ask for less", need.disk.get()),
        Shortage::Slots => "every host runs as many capsules as it can; delete some or try again later".to_owned(),
    };
    Failure::new(FailureKind::NoCapacity, text)
}
