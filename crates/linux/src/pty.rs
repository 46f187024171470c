//! Pseudo terminals: the pair, its size, its owner.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{Uid, fchown};
use tokio::io::Interest;

use crate::stream::Stream;

/// Characters of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

/// A new terminal of this size: our side, and the side of the program, which belongs to `owner`. Must be called on a
/// runtime's thread.
///
/// # Errors
/// The system has no more terminals or descriptors.
pub fn open(size: Size, owner: u32) -> io::Result<(Stream, OwnedFd)> {
    let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = File::options().read(true).write(true).custom_flags(flags).open("/dev/ptmx")?;
    let locked: libc::c_int = 0;
    // SAFETY: the ioctl reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) })?;
    // By the master, not by its name: that may be of another mount.
    // SAFETY: the ioctl takes open flags by value and returns a descriptor.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | flags) })?;
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    // The line editor must erase a whole character, not a byte of it.
    let mut modes = tcgetattr(&slave)?;
    modes.input_flags |= InputFlags::IUTF8;
    tcsetattr(&slave, SetArg::TCSANOW, &modes)?;
    if nix::unistd::geteuid().is_root() {
        // Programs reopen their terminal by name, as the user they run as.
        fchown(&slave, Some(Uid::from_raw(owner)), None)?;
    }
    set_size(master.as_fd(), size)?;
    Ok((Stream::new(master.into(), Interest::READABLE | Interest::WRITABLE)?, slave))
}

/// Changes a terminal's size and tells the program in front (SIGWINCH).
///
/// # Errors
/// It is no terminal.
pub fn set_size(master: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one winsize.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
