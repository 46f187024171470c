//! Running one virtual machine: an interface small enough for every VMM, and its drivers.
//!
//! Knows no sandbox, team or database. A machine outlives the process that started it: what is needed to take hold of it
//! again is a [`Record`], written down by the caller.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use wrenn_linux::private_pages::{Copied, Taken, Taker};
use wrenn_linux::process::Identity;

pub mod probe;
pub mod qemu;

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceleration {
    /// By the processor.
    Kvm,
    /// Translated in software: everywhere, some ten times slower.
    Tcg,
}

impl Acceleration {
    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What is settled about a machine before it is known what it shall hold.
#[derive(Debug)]
pub struct Frame {
    pub vcpus: u32,
    pub memory_mib: u32,
    /// An open tap, the guest's eth0.
    pub tap: OwnedFd,
    pub mac: [u8; 6],
    /// Private directory (mode 0700) for sockets; short, socket paths hold 107 bytes.
    pub run_dir: PathBuf,
    /// Where the VMM's own complaints go.
    pub log: PathBuf,
}

/// A machine as it shall be.
#[derive(Debug)]
pub struct Spec {
    pub frame: Frame,
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    /// Kernel command line after what the driver needs itself.
    pub command_line: String,
    /// Raw image, the guest's /dev/vda.
    pub disk: PathBuf,
    /// Guest memory, always mapped privately: the file is never changed. At a boot the driver makes it, all holes; at a
    /// restore it is a capture's and may be shared with any number of other machines.
    pub memory: PathBuf,
    /// Whether the guest gets a balloon. Giving memory back means punching holes into the memory file, which a guest can
    /// do unasked: never with a file that is shared.
    pub balloon: bool,
}

/// What must be known to take hold of a running machine again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub process: Identity,
    pub run_dir: PathBuf,
    /// The file its memory is mapped over.
    pub memory: PathBuf,
}

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    Running,
    Paused,
    /// The guest switched itself off, rebooted or panicked; the VMM only waits to be ended.
    Down,
}

/// What a capture took of a machine that stands still.
pub struct Captured {
    pub state_bytes: u64,
    memory: Taken,
}

impl Captured {
    /// Place and length, in bytes, of what the guest's memory had in use; see [`Taken::used`].
    pub fn used(&self) -> &[(u64, u64)] {
        self.memory.used()
    }

    /// Writes what of the memory is not in its file yet; the machine may go on meanwhile. For a thread that may block.
    pub fn finish(self) -> Result<Copied, VmmError> {
        self.memory.finish().map_err(|error| VmmError::new("write the memory of", error))
    }
}

/// An act on a machine failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} the machine")]
pub struct VmmError {
    pub act: &'static str,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl VmmError {
    /// Names the act that failed.
    pub fn new(act: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { act, source: source.into() }
    }
}

/// Starts machines.
pub trait Driver: Send + Sync {
    /// "qemu", "cloud-hypervisor".
    fn name(&self) -> &'static str;
    /// Version of the VMM program.
    fn version(&self) -> &str;
    fn acceleration(&self) -> Acceleration;
    /// Starts a machine from its kernel. Returns when the VMM answers; the guest boots on.
    fn boot(&self, spec: Spec) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>>;
    /// Starts a machine from a capture's device state, its memory mapped over the capture's. It is paused. Everything else of
    /// the spec must be as it was when the state was written; only the disk may have grown.
    fn restore(&self, spec: Spec, state: PathBuf) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>>;
    /// Starts a VMM ahead of time, for a restore that is not known yet. `None`: this VMM cannot be started without one.
    fn prepare(&self, frame: Frame) -> BoxFuture<'_, Result<Option<Box<dyn Blank>>, VmmError>>;
    /// Takes hold of a machine started earlier; `None` when it is gone.
    fn adopt(&self, record: Record) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>>;
}

/// A VMM that runs and holds no guest yet.
pub trait Blank: Send + Sync {
    fn run_dir(&self) -> PathBuf;
    /// Notes that its private directory has another name now.
    fn moved(&mut self, run_dir: PathBuf);
    fn is_alive(&self) -> bool;
    /// As [`Driver::restore`]. A failure ends the VMM.
    fn restore(
        self: Box<Self>,
        disk: PathBuf,
        memory: PathBuf,
        state: PathBuf,
    ) -> BoxFuture<'static, Result<Arc<dyn Machine>, VmmError>>;
    /// Ends the VMM and waits until it is gone.
    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>>;
}

/// A running machine.
pub trait Machine: Send + Sync {
    fn record(&self) -> Record;
    /// Notes that its private directory and its memory file have other names now. The VMM holds both open.
    fn moved(&self, run_dir: PathBuf, memory: PathBuf);
    fn state(&self) -> BoxFuture<'_, Result<MachineState, VmmError>>;
    /// Stops all vCPUs.
    fn pause(&self) -> BoxFuture<'_, Result<(), VmmError>>;
    fn resume(&self) -> BoxFuture<'_, Result<(), VmmError>>;
    /// Gets ready to capture its memory into `memory`, a copy of the file it is mapped over: everything that can be done while
    /// it still runs. At most `held_bytes_max` will be held for [`Captured::finish`].
    fn expect_capture(&self, memory: PathBuf, held_bytes_max: usize) -> BoxFuture<'_, Result<Taker, VmmError>>;
    /// Writes a paused machine down: its device state into the new file `state`, and into what the taker was made for every page it
    /// has written since it was started. Neither file is synced. The machine stays paused and can go on.
    fn capture(&self, state: PathBuf, taker: Taker) -> BoxFuture<'_, Result<Captured, VmmError>>;
    /// Tells the guest that its disk has grown to `bytes`.
    fn grow_disk(&self, bytes: u64) -> BoxFuture<'_, Result<(), VmmError>>;
    /// Asks the guest to use only so much memory, MiB. Refused by a machine without a balloon.
    fn resize_balloon(&self, memory_mib: u32) -> BoxFuture<'_, Result<(), VmmError>>;
    /// The newest bytes of the console, at most 64 KiB.
    fn console(&self) -> BoxFuture<'_, Vec<u8>>;
    /// Returns when the guest is down or the VMM has ended.
    fn ended(&self) -> BoxFuture<'_, ()>;
    /// Ends the VMM and waits until it is gone.
    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>>;
}
