//! Where a new sandbox goes: [`policy`] chooses (pure), [`place`] writes the choice with a reservation.
//!
//! Must never: call a host. A choice that turns out full is made again.

mod policy;

use std::time::Duration;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};
use wrenn_store::pg::{HostLoad, NewSandbox, Placed, Quota, QuotaRefusal, Sandbox};
use wrenn_store::{Store, StoreError};

use policy::NoPlace;

/// What a sandbox needs of a host.
#[derive(Debug, Clone)]
pub struct Need {
    pub template: String,
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
    owner: Uuid,
    keep: Duration,
    quota: &dyn Quota,
) -> Result<(Sandbox, String), PlaceError> {
    let need =
        Need { template: new.template.as_str().to_owned(), vcpus: new.vcpus, memory: new.memory, disk: new.disk };
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
