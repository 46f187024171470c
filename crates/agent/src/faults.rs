//! Named points of everything that must survive being interrupted, at which a test may kill this agent or a sandbox's VMM, or cut the
//! power of the store and everything that uses it.
//!
//! Off unless WRENN_FAULTS=on; then `{WRENN_DIR}/fault` names one step and a victim, once. A new step gets a name here, and the
//! fault test walks [`Point::ALL`].

use crate::failure::cause;
use std::path::PathBuf;

use wrenn_linux::process;

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A moment between two points.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            /// All of them, in the order a life passes them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its word in the fault file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

points! {
    /// The spec is in the ledger; nothing else is there.
    CreateBegun = "create_begun",
    /// A warm_vm was taken: its disk is in the sandbox's directory, its memory is not.
    CreateMoved = "create_moved",
    /// Network, disk and memory base are there; no VMM, or that of a warm_vm.
    CreateLinked = "create_linked",
    /// The VMM is there and stands still; the ledger does not know it.
    CreateLoaded = "create_loaded",
    /// The guest runs; it has not confirmed who it is.
    CreateRunning = "create_running",
    /// The guest has confirmed; the ledger does not say ready.
    CreateInitialized = "create_initialized",
    /// The ledger says ready; it is not reported.
    CreateNoted = "create_noted",
    /// The ledger says pausing; the guest runs.
    PauseRequested = "pause_requested",
    /// The guest stands still; nothing is written.
    PauseFrozen = "pause_frozen",
    /// Device state, memory and disk are taken; nothing is synced.
    PauseWritten = "pause_written",
    /// Everything is synced and has its manifest; it does not count yet.
    PauseSealed = "pause_sealed",
    /// The capture counts; the ledger still says pausing and the VMM is there.
    PauseCommitted = "pause_committed",
    /// The ledger says paused; VMM and network are still there.
    PauseNoted = "pause_noted",
    /// The VMM is gone; its network and the running disk are still there.
    PauseReleased = "pause_released",
    /// The ledger says resuming; nothing else has happened.
    ResumeRequested = "resume_requested",
    /// Network, disk and memory base are there; no VMM.
    ResumeLinked = "resume_linked",
    /// The VMM is there and stands still.
    ResumeLoaded = "resume_loaded",
    /// The guest runs; it has not confirmed who it is.
    ResumeRunning = "resume_running",
    /// The guest has confirmed; the ledger does not say ready.
    ResumeInitialized = "resume_initialized",
    /// The ledger says ready; the old capture is still there.
    ResumeNoted = "resume_noted",
    /// A snapshot's source stands still; nothing is written.
    SnapshotFrozen = "snapshot_frozen",
    /// Its memory and disk are taken; it still stands still.
    SnapshotWritten = "snapshot_written",
    /// The source runs again; the snapshot is not sealed.
    SnapshotThawed = "snapshot_thawed",
    /// The snapshot is sealed; it does not count yet.
    SnapshotSealed = "snapshot_sealed",
    /// The snapshot counts; it is not reported.
    SnapshotCommitted = "snapshot_committed",
    /// A fork's instant counts; there is no child.
    ForkCaptured = "fork_captured",
    /// The first child is there, the others are not.
    ForkFirstChild = "fork_first_child",
    /// Every child is there; none is reported.
    ForkMade = "fork_made",
}

/// Hook runs at a step, given the step and the process id of the VMM it is about, if any.
pub type Hook = Box<dyn Fn(Point, Option<i32>) + Send + Sync>;

/// The switch of all steps.
#[derive(Default)]
pub struct Faults(Option<Hook>);

impl Faults {
    /// Makes a switch that reads `file` at every step; `None` switches it off. `store` is what loses its power.
    pub fn new(file: Option<PathBuf>, store: PathBuf) -> Self {
        let Some(file) = file else { return Self(None) };
        let file = FaultFile { file, store };
        Self(Some(Box::new(move |point, vmm| file.reach(point, vmm))))
    }

    /// Makes a switch that calls `hook` at every step.
    pub fn with(hook: Hook) -> Self {
        Self(Some(hook))
    }

    /// Passes a step. In production this costs one branch. To be called on a thread of the runtime, never inside blocking work: a
    /// test stops those threads, and with them the whole agent at this step.
    pub fn reach(&self, point: impl Into<Option<Point>>, vmm: Option<i32>) {
        let (Some(hook), Some(point)) = (&self.0, point.into()) else { return };
        hook(point, vmm);
    }
}

/// A file that names one step and a victim.
struct FaultFile {
    file: PathBuf,
    store: PathBuf,
}

impl FaultFile {
    fn reach(&self, point: Point, vmm: Option<i32>) {
        let Ok(text) = std::fs::read_to_string(&self.file) else { return };
        let Some((victim, name)) = text.trim().split_once(' ') else { return };
        if name != point.as_str() {
            return;
        }
        // Once: the next agent must not die of it again.
        let _ = std::fs::remove_file(&self.file);
        match (victim, vmm) {
            ("agent", _) => process::kill_self(),
            ("power", _) => self.cut_power(),
            ("vmm", Some(pid)) => {
                if let Err(error) = process::kill_now(pid) {
                    tracing::error!(pid, error = cause(&error), "the fault's victim does not die");
                }
            }
            _ => tracing::error!(%text, "a fault without a victim"),
        }
    }

    fn cut_power(&self) -> ! {
        let failed = |error: std::io::Error| {
            tracing::error!(error = cause(&error), "the store's power cannot be cut");
        };
        let _ = wrenn_linux::mounts::cut_power(&self.store).map_err(failed);
        // VMMs cannot tell any more what they did not tell before.
        loop {
            let left = wrenn_vmm::find_vmms(&self.store, &self.store);
            if left.is_empty() {
                break;
            }
            for vmm in left {
                let _ = process::kill_now(vmm.pid);
            }
        }
        let _ = wrenn_linux::mounts::detach(&self.store).map_err(failed);
        process::kill_self()
    }
}
