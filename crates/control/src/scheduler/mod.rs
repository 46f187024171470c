//! Where a new sandbox goes: [`policy`] chooses (pure), [`place`] writes the choice with a reservation. Whether one that is bound
//! to its host may run there (again) or be doubled: [`readmit`], [`fork`].
//!
//! Must never: call a host. A choice that turns out full is made again.

mod policy;

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::HostId;
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};
use wrenn_store::pg::{
    Change, Forked, HostLoad, NewFork, NewSandbox, Placed, Quota, QuotaRefusal, Readmitted, Sandbox,
};
use wrenn_store::{Store, StoreError};

use policy::NoPlace;

/// Which hosts have what a sandbox is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Those that hold the template's image.
    Image,
    /// The one that holds the snapshot, or the sandbox to be forked.
    OnHost(HostId),
    /// The one it is on already, disk and all.
    Itself,
}

/// What a sandbox needs of a host.
#[derive(Debug, Clone)]
pub struct Need {
    pub template: String,
    pub source: Source,
    pub vcpus: Vcpus,
    pub memory: MemoryMib,
    pub disk: DiskMib,
}

/// Why no place was found.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No host can take it now; the sentence is for the user.
    #[error("{0}")]
    NoPlace(Failure),
    /// The team may not use as much.
    #[error("the team's bounds do not allow it")]
    Refused(QuotaRefusal),
    /// The team was deleted.
    #[error("the team is gone")]
    TeamGone,
    #[error("placing a sandbox")]
    Store(#[from] StoreError),
}

/// Choices made before giving up: each lost one means somebody else took the room in between.
const CHOICES_MAX: usize = 5;

/// Chooses a host and writes the sandbox there, within what the team may use. The row is leased to `owner` for `keep`.
pub async fn place(
    store: &Store,
    new: &NewSandbox,
    source: Source,
    owner: Uuid,
    keep: Duration,
    quota: &dyn Quota,
) -> Result<(Sandbox, String), PlaceError> {
    let need = Need {
        template: new.template.as_str().to_owned(),
        source,
        vcpus: new.vcpus,
        memory: new.memory,
        disk: new.disk,
    };
    for _ in 0..CHOICES_MAX {
        let loads = store.host_loads().await?;
        let host = policy::choose(&loads, &need).map_err(|why| PlaceError::NoPlace(explain(why, &need)))?;
        let fits = |load: &HostLoad| policy::fits(load, &need).is_ok();
        match store.sandbox_place_within(new, host.host, fits, owner, keep, quota).await? {
            Placed::Here(sandbox) => return Ok((*sandbox, host.address.clone())),
            Placed::Refused(refusal) => return Err(PlaceError::Refused(refusal)),
            Placed::TeamGone => return Err(PlaceError::TeamGone),
            Placed::Full => tracing::debug!(host = %host.host, "the chosen host filled up; choosing again"),
        }
    }
    Err(PlaceError::NoPlace(explain(NoPlace::Memory, &need)))
}

/// Changes a paused or crashed sandbox so that it runs again, if its host has room.
pub async fn readmit(
    store: &Store,
    sandbox: &Sandbox,
    change: &Change,
    quota: &dyn Quota,
) -> Result<Readmitted, PlaceError> {
    let need = need_of(sandbox, Source::Itself)?;
    Ok(store.sandbox_readmit(sandbox, change, |load| policy::fits(load, &need).is_ok(), quota).await?)
}

/// Reserves as many children of a sandbox as its host has room for.
pub async fn fork(store: &Store, source: &Sandbox, new: &NewFork, quota: &dyn Quota) -> Result<Forked, PlaceError> {
    let Some(host) = source.host else { return Ok(Forked::HostAway) };
    let need = need_of(source, Source::OnHost(host))?;
    Ok(store.fork_begin(source, new, |load| policy::fits(load, &need).is_ok(), quota).await?)
}

fn need_of(sandbox: &Sandbox, source: Source) -> Result<Need, PlaceError> {
    let sizes = || {
        Ok::<_, Failure>(Need {
            template: sandbox.template.clone(),
            source,
            vcpus: Vcpus::parse(sandbox.vcpus.into())?,
            memory: MemoryMib::parse(sandbox.memory_mib.into())?,
            disk: DiskMib::parse(sandbox.disk_mib.into())?,
        })
    };
    sizes().map_err(PlaceError::NoPlace)
}

fn explain(why: NoPlace, need: &Need) -> Failure {
    let text = match why {
        NoPlace::NoHost => "no host is online; check that the host agent runs and is reachable".to_owned(),
        NoPlace::Template => format!("no online host holds the template {}; try again later", need.template),
        NoPlace::Vcpus => format!("no host has enough CPU cores for {} vCPUs; ask for fewer", need.vcpus.get()),
        NoPlace::Memory => format!(
            "no host has {} MiB of memory free now; try again later, delete capsules, or ask for less",
            need.memory.get()
        ),
        NoPlace::Disk => format!("no host has room for a disk of {} MiB; ask for less", need.disk.get()),
        NoPlace::Slots => "every host runs as many capsules as it can; delete some or try again later".to_owned(),
    };
    Failure::new(FailureKind::NoCapacity, text)
}
