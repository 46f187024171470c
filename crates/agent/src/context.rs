//! What every sandbox's task shares: made once at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wrenn_vmm::Driver;

use crate::config::Config;
use crate::faults::Faults;
use crate::network::Slots;
use crate::start_load::StartLoad;
use crate::storage::{Compatibility, Images, Store};
use crate::vmms::Vmms;

/// Kernel that guests boot, and where it is.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub path: PathBuf,
    pub initramfs: Option<PathBuf>,
}

/// Context is what all rooms of one agent share. It knows no sandbox.
pub struct Context {
    pub config: Config,
    pub store: Store,
    pub images: Images,
    pub slots: Arc<dyn Slots>,
    pub driver: Arc<dyn Driver>,
    /// VMMs of this agent's store, also those no ledger names.
    pub vmms: Arc<dyn Vmms>,
    pub kernel: Kernel,
    /// Private directory for control sockets.
    pub run_dir: PathBuf,
    /// VMM and processor that device state made here depends on.
    pub compatibility: Compatibility,
    /// Name of this run of the machine.
    pub boot_id: String,
    pub faults: Faults,
    /// Starts somebody waits for.
    pub start_load: Arc<StartLoad>,
}

/// Reads the name of this run of the machine: pages written in another one have been through the disk.
///
/// # Errors
/// /proc is not there.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Computes a digest of the processor's model and features.
///
/// # Errors
/// /proc is not there.
pub fn cpu_digest() -> std::io::Result<String> {
    use sha2::Digest;
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let one = text.split("\n\n").next().unwrap_or_default();
    let lines =
        one.lines().filter(|line| ["vendor_id", "model name", "flags"].iter().any(|name| line.starts_with(name)));
    let digest = sha2::Sha256::digest(lines.collect::<Vec<_>>().join("\n"));
    Ok(hex::encode(&digest[..16]))
}

/// There is no kernel for guests.
#[derive(Debug, thiserror::Error)]
#[error("no guest kernel in {}: put a vmlinux or vmlinux-VERSION there (`make images` makes one)", dir.display())]
pub struct NoKernel {
    dir: PathBuf,
}

impl Kernel {
    /// Returns the name of the kernel's file, which carries the version.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Finds the highest version in `{dir}/kernels`; a bare `vmlinux` counts as the lowest.
    ///
    /// # Errors
    /// There is none.
    pub fn find(dir: &Path) -> Result<Self, NoKernel> {
        let dir = dir.join("kernels");
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let versions = names.filter_map(|name| match name.strip_prefix("vmlinux") {
            Some("") => Some(String::new()),
            Some(rest) => rest.strip_prefix('-').map(str::to_owned),
            None => None,
        });
        let Some(version) = versions.max_by_key(|version| numbers(version)) else { return Err(NoKernel { dir }) };
        let with = |base: &str| if version.is_empty() { dir.join(base) } else { dir.join(format!("{base}-{version}")) };
        let initramfs = [with("initramfs"), dir.join("initramfs")].into_iter().find(|path| path.is_file());
        Ok(Self { path: with("vmlinux"), initramfs })
    }
}

/// Versions compare number by number: 6.10 is above 6.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_kernel_wins_and_its_own_initramfs_goes_with_it() {
        let home = tempfile::tempdir().unwrap();
        let kernels = home.path().join("kernels");
        std::fs::create_dir(&kernels).unwrap();
        assert!(Kernel::find(home.path()).is_err());
        for name in ["vmlinux", "vmlinux-6.9.2", "vmlinux-6.10.1", "initramfs-6.9.2", "initramfs"] {
            std::fs::write(kernels.join(name), "").unwrap();
        }
        let found = Kernel::find(home.path()).unwrap();
        assert_eq!(found.path, kernels.join("vmlinux-6.10.1"));
        assert_eq!(found.initramfs, Some(kernels.join("initramfs")));
    }
}
