//! Mounting a block device, and how much room a file system has.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub total: u64,
    pub free: u64,
}

/// Mounts an XFS device; freed blocks are given back to what lies beneath it.
pub fn mount_xfs(device: &Path, target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(device), target, Some("xfs"), flags, Some("discard")).map_err(Into::into)
}

/// Unmounts; fails while something in it is in use.
pub fn unmount(target: &Path) -> io::Result<()> {
    umount2(target, MntFlags::empty()).map_err(Into::into)
}

// XFS_IOC_GOINGDOWN of linux/fs/xfs/libxfs/xfs_fs.h.
nix::ioctl_read!(xfs_going_down, b'X', 125, u32);
/// Neither data nor log are written out first.
const NO_LOG_FLUSH: u32 = 2;

/// Does to an XFS what a power cut does to it: what was not synced is lost, and nothing is taken any more. For fault tests.
pub fn cut_power(target: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let place = std::fs::File::open(target)?;
    let mut how = NO_LOG_FLUSH;
    // SAFETY: an open descriptor and a number that outlives the call; other file systems refuse the request.
    unsafe { xfs_going_down(place.as_raw_fd(), &raw mut how) }?;
    Ok(())
}

/// Takes a file system off its place whoever uses it; its device is free when the last file in it is closed.
pub fn detach(target: &Path) -> io::Result<()> {
    umount2(target, MntFlags::MNT_DETACH).map_err(Into::into)
}

/// Whether a file system takes changes: one that has shut itself down answers each with an I/O error. Leaves nothing.
pub fn is_alive(root: &Path) -> bool {
    let probe = root.join(".probe");
    match std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)) {
        Err(error) => error.raw_os_error() != Some(nix::libc::EIO),
        Ok(()) => true,
    }
}

/// Whether something is mounted exactly there.
pub fn is_mounted(target: &Path) -> io::Result<bool> {
    let wanted = target.as_os_str().as_encoded_bytes();
    let table = std::fs::read("/proc/self/mounts")?;
    let mut places = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(1));
    Ok(places.any(|place| place == wanted))
}

/// Room on the file system that holds `path`, as an unprivileged writer sees it.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(Room { total: stat.blocks() * unit, free: stat.blocks_available() * unit })
}
