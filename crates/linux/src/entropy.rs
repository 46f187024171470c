//! The kernel's random generator: crediting entropy from the host, so that copies of one snapshot diverge.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use crate::syscall::{SyscallError, check};

/// Bytes one call may credit; more has no use, the generator's state has 32.
pub const ENTROPY_BYTES_MAX: usize = 512;

const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; ENTROPY_BYTES_MAX],
}

/// Mixes `entropy` into the pool with full credit and reseeds the generator from it at once.
/// Takes at most [`ENTROPY_BYTES_MAX`] bytes; the rest is ignored.
///
/// # Errors
/// Not root, or no /dev/random.
pub fn credit_and_reseed(entropy: &[u8]) -> Result<(), SyscallError> {
    let device =
        OpenOptions::new().write(true).open("/dev/random").map_err(|e| SyscallError::new("open", "/dev/random", e))?;
    let entropy = &entropy[..entropy.len().min(ENTROPY_BYTES_MAX)];
    let mut info = PoolInfo {
        entropy_bits: (entropy.len() * 8) as libc::c_int,
        bytes: entropy.len() as libc::c_int,
        buffer: [0; ENTROPY_BYTES_MAX],
    };
    info.buffer[..entropy.len()].copy_from_slice(entropy);
    // SAFETY: the kernel reads two ints and `bytes` bytes after them, all inside the live `info`.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &info) };
    info.buffer.fill(0);
    std::hint::black_box(&info.buffer);
    check(answer.into(), "add entropy to", "/dev/random")?;
    // SAFETY: this request takes no argument.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) };
    check(answer.into(), "reseed", "/dev/random").map(|_| ())
}
