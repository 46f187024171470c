//! Loop devices: a file as a block device.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
nix::ioctl_none_bad!(loop_clear, 0x4c01);
nix::ioctl_read_bad!(loop_get_status, 0x4c05, LoopInfo);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);

const NAME_BYTES: usize = 64;
const DIRECT_IO: u32 = 16;
/// Two processes may be offered the same free device; the loser asks again.
const TRIES: usize = 16;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_BYTES],
    crypt_name: [u8; NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
pub struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

fn blank_info() -> LoopInfo {
    // SAFETY: a struct of integers and byte arrays; all zeros is a valid value.
    unsafe { std::mem::zeroed() }
}

/// Attaches a file for reading and writing, past the page cache when its file system can.
///
/// # Errors
/// No loop driver, no right, or no free device.
pub fn attach(file: &Path) -> io::Result<PathBuf> {
    let backing = File::options().read(true).write(true).open(file)?;
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let mut last = io::Error::from_raw_os_error(nix::libc::EBUSY);
    for _ in 0..TRIES {
        // SAFETY: no argument; the descriptor is the loop control device.
        let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let handle = File::options().read(true).write(true).open(&device)?;
        let mut info = blank_info();
        let name = file.as_os_str().as_encoded_bytes();
        let length = name.len().min(NAME_BYTES - 1);
        info.file_name[..length].copy_from_slice(&name[..length]);
        for flags in [DIRECT_IO, 0] {
            info.flags = flags;
            let config = LoopConfig { fd: backing.as_raw_fd().cast_unsigned(), block_size: 0, info, reserved: [0; 8] };
            // SAFETY: the struct is laid out as the kernel wants it and outlives the call.
            match unsafe { loop_configure(handle.as_raw_fd(), &raw const config) } {
                Ok(_) => return Ok(device),
                Err(nix::errno::Errno::EBUSY) => break,
                Err(errno) => last = errno.into(),
            }
        }
    }
    Err(last)
}

/// Device a file is attached to already.
///
/// # Errors
/// The devices cannot be listed.
pub fn find(file: &Path) -> io::Result<Option<PathBuf>> {
    let wanted = file.metadata()?;
    for entry in std::fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("loop") || !entry.path().join("loop").is_dir() {
            continue;
        }
        let device = Path::new("/dev").join(&name);
        let Ok(handle) = File::open(&device) else { continue };
        let mut info = blank_info();
        // SAFETY: the struct is laid out as the kernel fills it and outlives the call.
        if unsafe { loop_get_status(handle.as_raw_fd(), &raw mut info) }.is_ok()
            && info.inode == wanted.ino()
            && info.device == wanted.dev()
        {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Loop devices in use with the file each is attached to; the kernel adds ` (deleted)` to the path of one that was removed.
///
/// # Errors
/// The devices cannot be listed.
pub fn attached() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let backing = |entry: std::fs::DirEntry| {
        let file = std::fs::read(entry.path().join("loop/backing_file")).ok()?;
        let file = file.strip_suffix(b"\n").unwrap_or(&file);
        Some((Path::new("/dev").join(entry.file_name()), PathBuf::from(OsStr::from_bytes(file))))
    };
    Ok(std::fs::read_dir("/sys/block")?.flatten().filter_map(backing).collect())
}

/// Detaches a device; the kernel does it when its last user is gone.
///
/// # Errors
/// There is no such device, or no right to it.
pub fn detach(device: &Path) -> io::Result<()> {
    let handle = File::open(device)?;
    // SAFETY: no argument; the descriptor is a loop device.
    match unsafe { loop_clear(handle.as_raw_fd()) } {
        Ok(_) | Err(nix::errno::Errno::ENXIO) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
