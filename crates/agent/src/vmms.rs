//! VMM processes of this agent's store, found without a ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use wrenn_linux::process::Process;

use crate::blocking::blocking;
use crate::failure::cause;

/// Time for a killed VMM to be gone: at once, unless the kernel is in trouble.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// Finds and ends VMMs whose machine nobody holds.
pub trait Vmms: Send + Sync {
    /// Ends every VMM of this agent's store that has a file below `dir` open.
    fn end_below<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, ()>;
}

/// VMMs among the processes of this host.
pub struct HostVmms {
    owner: PathBuf,
}

impl HostVmms {
    /// Finds VMMs that were started for the store at `owner`.
    pub fn new(owner: PathBuf) -> Self {
        Self { owner }
    }
}

impl Vmms for HostVmms {
    fn end_below<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, ()> {
        let (owner, dir) = (self.owner.clone(), dir.to_owned());
        Box::pin(async move {
            for identity in blocking(move || wrenn_vmm::find_vmms(&owner, &dir)).await {
                let Some(found) = Process::find(identity) else { continue };
                tracing::warn!(pid = identity.pid, "ending a VMM nobody owns");
                if let Err(error) = found.kill(KILL_WAIT).await {
                    tracing::error!(error = cause(&error), "a VMM does not end");
                }
            }
        })
    }
}
