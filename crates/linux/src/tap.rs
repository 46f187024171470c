//! Tap devices: a guest's network cable, held by an open file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/net/tun";
/// How long a tap may be held by somebody else. Every program that is started has copies of our open files from its fork to its exec,
/// which a busy machine draws out.
const BUSY_WAIT: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);

/// Makes a tap of this name in the calling thread's network namespace, or opens one that is there. It stays when the file
/// is closed, until its namespace ends, so that a VMM can be replaced.
///
/// Blocks for at most a second while another process has it open.
///
/// # Errors
/// No tun driver, no right, the name is used by another kind of interface, or `EBUSY`: another process keeps it open.
pub fn open(name: &str) -> io::Result<File> {
    let begun = Instant::now();
    loop {
        match try_open(name) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < BUSY_WAIT => {
                std::thread::sleep(LOOK_EVERY);
            }
            other => return other,
        }
    }
}

fn try_open(name: &str) -> io::Result<File> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn a_tap_that_is_held_for_a_moment_is_waited_for() {
        // On a thread of its own, which ends with its namespace.
        let tried = std::thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                return None;
            }
            let first = open("t0").unwrap();
            let copy = first.try_clone().unwrap();
            drop(first);
            assert_eq!(try_open("t0").unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            let holder = std::thread::spawn(move || {
                std::thread::sleep(BUSY_WAIT / 10);
                drop(copy);
            });
            let second = open("t0");
            holder.join().unwrap();
            // Held for good, it is an error after all.
            let kept = second.unwrap();
            let begun = Instant::now();
            assert_eq!(open("t0").unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            assert!(begun.elapsed() >= BUSY_WAIT);
            drop(kept);
            Some(())
        });
        if tried.join().unwrap().is_none() {
            println!("SKIPPED: no right to make a network namespace");
        }
    }
}
