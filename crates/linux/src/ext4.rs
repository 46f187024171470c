//! A mounted file system: growing ext4 to its device, trimming free blocks, syncing.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::syscall::{SyscallError, check};

/// `_IOW('f', 16, u64)`: new size in blocks.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::c_ulong = 0xc018_5879;

/// Size of the file system that holds `path`, in bytes.
///
/// # Errors
/// No such path.
pub fn size_bytes(path: &Path) -> Result<u64, SyscallError> {
    let stat = statvfs(path).map_err(|e| SyscallError::new("read size of", path.display().to_string(), e))?;
    Ok(stat.blocks() * stat.fragment_size())
}

/// Grows the mounted ext4 file system at `path` to the size of its block device. One that fills it is left alone.
///
/// # Errors
/// `path` is not on a block device, its file system is not ext4, or not root.
pub fn grow_to_device(path: &Path) -> Result<(), SyscallError> {
    let name = path.display().to_string();
    let fail = |act, error: std::io::Error| SyscallError::new(act, name.clone(), error);
    let root = File::open(path).map_err(|e| fail("open", e))?;
    let device = root.metadata().map_err(|e| fail("read device of", e))?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let sectors = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"))
        .map_err(|e| fail("read device size of", e))?;
    let sectors: u64 = sectors.trim().parse().map_err(|_| {
        fail("read device size of", std::io::Error::new(std::io::ErrorKind::InvalidData, "not a number"))
    })?;
    let block = statvfs(path).map_err(|e| fail("read block size of", e.into()))?.fragment_size();
    let blocks: u64 = sectors * 512 / block.max(512);
    // SAFETY: the kernel reads one u64 through the pointer, which is live.
    let answer = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &blocks) };
    check(answer.into(), "grow file system at", name).map(|_| ())
}

/// Tells the device which blocks of the file system at `path` are free. Returns the bytes given back.
///
/// # Errors
/// The device cannot discard (`EOPNOTSUPP`), or not root.
pub fn trim(path: &Path) -> Result<u64, SyscallError> {
    let name = path.display().to_string();
    let root = File::open(path).map_err(|e| SyscallError::new("open", name.clone(), e))?;
    let mut range = [0u64, u64::MAX, 0];
    // SAFETY: fstrim_range is three u64 (start, length, smallest extent); the kernel reads and writes just these.
    let answer = unsafe { libc::ioctl(root.as_raw_fd(), FITRIM as _, range.as_mut_ptr()) };
    check(answer.into(), "trim", name).map(|_| range[1])
}

/// Writes every dirty page of every file system to its device. May take seconds.
pub fn sync_all() {
    nix::unistd::sync();
}
