//! Processes: started as any user of the guest, followed to their end, read and fed by any number of callers.
//!
//! - [`service`]: the RPC service, and [`error`] its codes.
//! - [`start`]: from a wish to a running process: [`plan`] says what to run, [`cgroups`] where.
//! - [`driver`]: one task per process, from start to end. No threads.
//! - [`running`]: what can be done with a process; [`input`] the way in, [`output`] and [`reader`] the way out.
//! - [`table`]: all of them.
//!
//! Must never: run anything as root by accident, lose output to a slow reader, or leave behind what a caller who hung up
//! had started.

mod cgroups;
mod driver;
mod error;
mod input;
mod output;
mod patience;
mod plan;
mod reader;
mod ring;
mod running;
mod service;
mod start;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;
use wrenn_domain::limits::{GUEST_DESCRIPTORS_HARD, GUEST_DESCRIPTORS_MAX, PROCESS_LEFTOVERS_MAX};
use wrenn_linux::descriptors::{self, Limit};

pub use service::service;

use cgroups::Cgroups;
pub use running::Lives;
use table::Table;

/// envd's place among those the kernel ends when memory runs out: behind everything a user runs.
const OOM_SCORE: &str = "-500";

/// All processes of this sandbox.
#[derive(Debug)]
pub struct Processes {
    table: Arc<Table>,
    /// Places for what outlives its process; see [`driver`].
    leftovers: Arc<Semaphore>,
    cgroup_root: PathBuf,
    /// Protect envd itself.
    protect: bool,
    /// The limit processes get, which is not envd's own.
    child_descriptors: Option<Limit>,
    ground: OnceLock<Ground>,
    /// To be told when the sandbox is written down and when it goes on.
    pub lives: Arc<Lives>,
}

/// Ground that the first process lays and all others use.
#[derive(Debug)]
struct Ground {
    cgroups: Cgroups,
    child_descriptors: Option<Limit>,
}

impl Processes {
    /// None yet. `protect`: envd may change its own standing with the kernel.
    pub fn new(cgroup_root: &Path, protect: bool) -> Self {
        Self {
            table: Arc::default(),
            leftovers: Arc::new(Semaphore::new(PROCESS_LEFTOVERS_MAX)),
            cgroup_root: cgroup_root.to_owned(),
            protect,
            // At once: files are served before there is any process.
            child_descriptors: raise_descriptors(),
            ground: OnceLock::new(),
            lives: Arc::default(),
        }
    }

    /// Ends what streams own that did not survive: after a pause, nobody can reach such a process or hear how it ends.
    pub fn kill_owned(&self) {
        for process in self.table.list().into_iter().filter(|process| process.is_owned()) {
            tracing::info!(pid = process.pid, "the pause cut off who had started this process; it is ended");
            process.kill();
        }
    }

    /// Prepared with the first process: a boot does not wait for it. Blocking, the first time.
    fn ground(&self) -> &Ground {
        self.ground.get_or_init(|| {
            if self.protect
                && let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE)
            {
                tracing::warn!(%error, "envd may be ended when memory runs out");
            }
            Ground { cgroups: Cgroups::prepare(&self.cgroup_root), child_descriptors: self.child_descriptors }
        })
    }
}

/// Raises envd's limit. Returns what its children get: the soft limit envd was started with, because programs that see a
/// huge one walk through all of it, and a hard one to raise it to.
fn raise_descriptors() -> Option<Limit> {
    let before = descriptors::limit().ok()?;
    let wanted = Limit { soft: before.soft.max(GUEST_DESCRIPTORS_MAX), hard: before.hard.max(GUEST_DESCRIPTORS_HARD) };
    let within = Limit { soft: before.hard.min(wanted.soft), hard: before.hard };
    let raised = [wanted, within].into_iter().find(|limit| descriptors::set_limit(*limit).is_ok())?;
    Some(Limit { soft: before.soft, hard: raised.hard })
}
