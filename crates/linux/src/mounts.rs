//! Mounting a block device, and how much room a file system has.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub total: u64,
    pub free: u64,
}

/// Mounts an XFS device; freed blocks are given back to what lies beneath it.
///
/// # Errors
/// The device holds no XFS, or there is no right to mount.
pub fn mount_xfs(device: &Path, target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(device), target, Some("xfs"), flags, Some("discard")).map_err(Into::into)
}

/// Unmounts a file system.
///
/// # Errors
/// Something in it is in use.
pub fn unmount(target: &Path) -> io::Result<()> {
    umount2(target, MntFlags::empty()).map_err(Into::into)
}

// XFS_IOC_GOINGDOWN of linux/fs/xfs/libxfs/xfs_fs.h.
nix::ioctl_read!(xfs_going_down, b'X', 125, u32);
/// Neither data nor log are written out first.
const NO_LOG_FLUSH: u32 = 2;

/// Does to an XFS what a power cut does to it: what was not synced is lost, and nothing is taken any more. For fault tests.
///
/// # Errors
/// It is not an XFS.
pub fn cut_power(target: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let root = std::fs::File::open(target)?;
    let mut how = NO_LOG_FLUSH;
    // SAFETY: an open descriptor and a number that outlives the call; other file systems refuse the request.
    unsafe { xfs_going_down(root.as_raw_fd(), &raw mut how) }?;
    Ok(())
}

/// Takes a file system out of the tree whoever uses it; its device is free when the last file in it is closed.
///
/// # Errors
/// Nothing is mounted there.
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

/// Whether something is mounted exactly at `target`.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn is_mounted(target: &Path) -> io::Result<bool> {
    Ok(table()?.into_iter().any(|(_, mounted)| mounted == target))
}

/// Paths at which a device is mounted.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn targets_of(device: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(table()?.into_iter().filter(|(mounted, _)| mounted == device).map(|(_, target)| target).collect())
}

/// Device and target of every mount.
fn table() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let table = std::fs::read("/proc/self/mounts")?;
    let parse = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ').map(|field| PathBuf::from(OsString::from_vec(unescaped(field))));
        Some((fields.next()?, fields.next()?))
    };
    Ok(table.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// Path of the kernel's mount table as it was: blank, tab, line feed, backslash and `#` stand there as `\` and three octal
/// digits. Source: mangle() in fs/seq_file.c.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digits: &&[u8]| byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
        let code = after.get(..3).filter(octal);
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    path
}

/// Room on the file system that holds `path`, as an unprivileged writer sees it.
///
/// # Errors
/// There is no such path, or its file system does not answer.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(Room { total: stat.blocks() * unit, free: stat.blocks_available() * unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_mount_table_is_read_back_as_it_was() {
        for (text, path) in [
            ("/a", "/a"),
            ("/my\\040files", "/my files"),
            ("/a\\011b\\012c\\134d", "/a\tb\nc\\d"),
            ("/end\\04", "/end\\04"),
            ("/no\\999", "/no\\999"),
        ] {
            assert_eq!(unescaped(text.as_bytes()), path.as_bytes(), "{text}");
        }
    }
}
