//! From a sandbox's sizes and directory to what a VMM driver is asked for.

use std::path::{Path, PathBuf};

use wrenn_contract::guest::GUEST_MAC;
use wrenn_vmm::{DiskSpec, Frame, Spec};

use super::error::StartError;
use crate::blocking::blocking;
use crate::context::Context;
use crate::network::Slot;
use crate::storage::{Disk, Manifest, StorageError, memory_path};

/// Sizes of a machine that its VMM must know before it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineSizes {
    pub vcpus: u32,
    pub memory_mib: u32,
}

impl MachineSizes {
    /// Returns the sizes of the machine that a capture was made of.
    pub fn of(manifest: &Manifest) -> Self {
        Self { vcpus: manifest.vcpus, memory_mib: manifest.memory_mib }
    }
}

/// Returns the private directory for the sockets of the machine whose files are in `dir`.
pub fn run_dir(ctx: &Context, dir: &Path) -> PathBuf {
    ctx.run_dir.join(dir.file_name().unwrap_or_default())
}

/// Describes a machine whose files are in `dir`.
///
/// # Errors
/// As [`machine_frame`].
pub async fn machine_spec(
    ctx: &Context,
    dir: &Path,
    sizes: MachineSizes,
    disks: &[Disk],
    slot: &dyn Slot,
) -> Result<Spec, StartError> {
    Ok(Spec {
        frame: machine_frame(ctx, dir, sizes, slot).await?,
        kernel: ctx.kernel.path.clone(),
        initramfs: ctx.kernel.initramfs.clone(),
        command_line: String::new(),
        disks: disk_specs(disks),
        memory: memory_path(dir),
    })
}

/// Describes disks to a VMM.
pub fn disk_specs(disks: &[Disk]) -> Vec<DiskSpec> {
    disks.iter().map(|disk| DiskSpec { path: disk.path().to_owned() }).collect()
}

/// Describes a machine before its memory and disk are known, and makes its private directory.
///
/// # Errors
/// The directory cannot be made, or the slot's tap cannot be opened.
pub async fn machine_frame(
    ctx: &Context,
    dir: &Path,
    sizes: MachineSizes,
    slot: &dyn Slot,
) -> Result<Frame, StartError> {
    let run_dir = run_dir(ctx, dir);
    let made = run_dir.clone();
    let made = blocking(move || std::fs::create_dir_all(made)).await;
    made.map_err(|source| StorageError::File { act: "create", path: run_dir.clone(), source })?;
    let MachineSizes { vcpus, memory_mib } = sizes;
    let (tap, network, user) = (slot.open_tap()?, slot.namespace()?, slot.vmm_user());
    Ok(Frame { vcpus, memory_mib, tap, mac: GUEST_MAC, run_dir, log: dir.join("vmm.log"), network, user })
}
