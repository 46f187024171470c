//! Tap devices: a guest's network cable, held by an open file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const DEVICE: &str = "/dev/net/tun";

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);

/// Makes a tap of this name in the calling thread's network namespace, or opens one that is there. It stays when the file
/// is closed, until its namespace ends, so that a VMM can be replaced.
///
/// # Errors
/// No tun driver, no right, or the name is used by another kind of interface.
pub fn open(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(DEVICE)?;
    // SAFETY: ifreq is plain data; all zeros is a valid value of it.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    let flags = nix::libc::IFF_TAP | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the descriptor is an open tun device and the request outlives the call; the kernel reads no more than an ifreq.
    unsafe { tun_set_iff(file.as_raw_fd(), (&raw const request) as nix::libc::c_ulong) }?;
    // SAFETY: an integer argument; the descriptor is the tap just made.
    unsafe { tun_set_persist(file.as_raw_fd(), 1) }?;
    Ok(file)
}
