//! Running one virtual machine: an interface small enough for every VMM, and its drivers.
//!
//! Knows no sandbox, team or database. A machine outlives the process that started it: what is needed to adopt it is a [`Record`],
//! kept by the caller, and what no record names is found by what the launcher of every driver leaves ([`find_vmms`],
//! docs/decisions/0013).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use wrenn_linux::process::Identity;

mod capture;
mod config;
mod find;
#[doc(hidden)]
pub mod fuzz;
mod launch;
mod qemu;

pub use capture::{CaptureRequest, CapturedMemory, ChangedPages, DeviceState, PendingCapture, TakenCapture};
pub use config::{Check, CheckVerdict, Found, VmmChoice, VmmConfig};
pub use find::{find, inspect};
pub use launch::{all_vmms, find_vmms};

/// Acceleration is how guest code is executed. Its serialized words are older than its names and stay what they are: they are in
/// every capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acceleration {
    /// Guest code runs on the processor itself.
    #[serde(rename = "kvm")]
    Hardware,
    /// Guest code is translated in software: possible everywhere, and some ten times slower.
    #[serde(rename = "tcg")]
    Software,
}

impl Acceleration {
    /// Word for this acceleration in reports, the serialized one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "kvm",
            Self::Software => "tcg",
        }
    }
}

/// Frame is all of a machine that must be known before its VMM is started; memory and disks are not part of it.
#[derive(Debug)]
pub struct Frame {
    pub vcpus: u32,
    pub memory_mib: u32,
    /// Open tap, the guest's eth0.
    pub tap: OwnedFd,
    pub mac: [u8; 6],
    /// Private directory (mode 0700) for sockets; short, socket paths hold 107 bytes.
    pub run_dir: PathBuf,
    /// FIFO for what the VMM prints, made by the driver. The VMM holds it open, so [`find_vmms`] finds the VMM by its directory,
    /// whatever that is called by then.
    pub log: PathBuf,
    /// Network namespace the VMM runs in.
    pub network: OwnedFd,
    /// User and group the VMM runs as; no other process on this machine has them.
    pub user: u32,
}

/// Disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Raw image or block device.
    pub path: PathBuf,
}

/// Spec is everything a machine is started with.
#[derive(Debug)]
pub struct Spec {
    pub frame: Frame,
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    /// Kernel command line after what the driver needs itself.
    pub command_line: String,
    /// Disks in the order in which the guest sees them; the first is /dev/vda. Drivers take one today and refuse more.
    pub disks: Vec<DiskSpec>,
    /// Guest memory, always mapped privately: the file is never changed. At a boot the driver makes it, all holes; at a
    /// restore it is a capture's and may be shared with any number of other machines.
    pub memory: PathBuf,
}

/// Record is what must be known to adopt a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Driver that started the machine, [`Driver::name`]. Records from before there was a choice were all written by the first one.
    #[serde(default = "qemu::driver_name")]
    pub driver: String,
    /// Version of the VMM that runs, which is not the installed one's after an upgrade; empty in old records.
    #[serde(default)]
    pub version: String,
    pub process: Identity,
    /// Whether the VMM is confined: then it sees its files under names of its own. VMMs of older records are not.
    #[serde(default)]
    pub confined: bool,
    pub run_dir: PathBuf,
    /// File the memory is mapped over.
    pub memory: PathBuf,
}

/// Failure of an act on a machine.
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

/// Driver starts and adopts machines of one VMM program. Several can exist side by side.
pub trait Driver: Send + Sync {
    /// Name of the VMM, kept with every machine and capture: "qemu", "cloud-hypervisor".
    fn name(&self) -> &'static str;
    /// Version of the installed VMM program.
    fn version(&self) -> &str;
    /// Acceleration of the machines this driver starts.
    fn acceleration(&self) -> Acceleration;
    /// Starts a machine from its kernel. Returns when the VMM answers; the guest boots on.
    ///
    /// # Errors
    /// The VMM does not start or does not answer in time; none is left running.
    fn boot(&self, spec: Spec) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>>;
    /// Starts a machine from a capture's device state, its memory mapped over the capture's. It is paused. Everything else of
    /// the spec must be as it was when the state was written; only disks may have grown.
    ///
    /// # Errors
    /// The VMM does not start, or refuses the state; none is left running.
    fn restore(&self, spec: Spec, state: DeviceState) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>>;
    /// Ability to start VMMs before it is known what they will restore; `None` when this VMM cannot.
    fn prestart(&self) -> Option<&dyn Prestart>;
    /// Adopts a machine started earlier, perhaps by another process; `None` when it is gone.
    ///
    /// # Errors
    /// The record is another driver's, or the VMM runs and does not answer.
    fn adopt(&self, record: Record) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>>;
}

/// Prestart is the ability of some drivers to start a VMM ahead of time.
pub trait Prestart: Send + Sync {
    /// Starts a VMM for a restore that is not known yet.
    ///
    /// # Errors
    /// The VMM does not start or does not answer in time; none is left running.
    fn start(&self, frame: Frame) -> BoxFuture<'_, Result<Box<dyn PrestartedVmm>, VmmError>>;
}

/// PrestartedVmm is a VMM that runs and holds no guest yet. Dropped, it ends.
pub trait PrestartedVmm: Send + Sync {
    /// Private directory of the VMM, under its present name.
    fn run_dir(&self) -> PathBuf;
    /// Notes that its private directory has another name now.
    fn moved(&mut self, run_dir: PathBuf);
    /// Whether the VMM still runs.
    fn is_alive(&self) -> bool;
    /// Loads a guest, as [`Driver::restore`] does.
    ///
    /// # Errors
    /// The VMM refuses memory, disks or state; it has ended then.
    fn restore(
        self: Box<Self>,
        disks: Vec<DiskSpec>,
        memory: PathBuf,
        state: DeviceState,
    ) -> BoxFuture<'static, Result<Arc<dyn Machine>, VmmError>>;
    /// Ends the VMM and waits until it is gone.
    ///
    /// # Errors
    /// The VMM still runs after `wait`.
    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>>;
}

/// Machine is a virtual machine whose VMM runs.
pub trait Machine: Send + Sync {
    /// Record by which it can be adopted.
    fn record(&self) -> Record;
    /// Notes that its private directory and its memory file have other names now. The VMM holds both open.
    fn moved(&self, run_dir: PathBuf, memory: PathBuf);
    /// Stops all vCPUs; a paused machine stays paused.
    ///
    /// # Errors
    /// The VMM refuses or does not answer in time.
    fn pause(&self) -> BoxFuture<'_, Result<(), VmmError>>;
    /// Lets all vCPUs run; a running machine runs on.
    ///
    /// # Errors
    /// The VMM refuses or does not answer in time.
    fn resume(&self) -> BoxFuture<'_, Result<(), VmmError>>;
    /// Begins a capture: does everything that can be done while the machine still runs.
    ///
    /// # Errors
    /// The VMM is gone, or a file of the request cannot be used.
    fn begin_capture(&self, request: CaptureRequest) -> BoxFuture<'_, Result<Box<dyn PendingCapture>, VmmError>>;
    /// Notifies the guest that a disk, counted from 0, has grown to `bytes`. A driver that cannot do that with a paused machine does it
    /// when the machine is resumed.
    ///
    /// # Errors
    /// There is no such disk, or the VMM refuses.
    fn grow_disk(&self, disk: usize, bytes: u64) -> BoxFuture<'_, Result<(), VmmError>>;
    /// Newest bytes of the console, at most 64 KiB.
    fn console(&self) -> BoxFuture<'_, Vec<u8>>;
    /// Returns when the guest is down or the VMM has ended.
    fn ended(&self) -> BoxFuture<'_, ()>;
    /// Ends the VMM and waits until it is gone.
    ///
    /// # Errors
    /// The VMM still runs after `wait`.
    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>>;
}
