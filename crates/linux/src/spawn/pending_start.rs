//! Start of a program between the creation of its process and its exec, and the way to end it when that takes too long.
//!
//! The thread that starts it can do nothing but wait, and the child already has its user's rights: another program of
//! that user may stop it, and a directory or program may be on a file system that never answers.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// PendingStart is one start of one program.
#[derive(Debug, Default)]
pub struct PendingStart {
    /// Pid of the child, written by the kernel when it creates it; 0 before and after.
    pid: AtomicI32,
    /// Held while the pid is used, so that it cannot be reaped, and given to another, meanwhile.
    given_up: Mutex<bool>,
}

impl PendingStart {
    /// Ends the child, if it is on its way; [`super::Command::start`] then fails with a time-out. Does nothing to a program
    /// that was started. To be repeated until the start returns: the child may not have a pid yet.
    pub fn give_up(&self) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        *given_up = true;
        let pid = self.pid.load(Ordering::Acquire);
        if pid > 0 {
            // It cannot fail: nobody reaps it while we hold the lock.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Whether a child is on its way.
    pub fn is_under_way(&self) -> bool {
        self.pid.load(Ordering::Acquire) > 0
    }

    /// Address at which the kernel shall write the child's pid.
    pub(super) fn pid_address(&self) -> *mut libc::pid_t {
        self.pid.as_ptr()
    }

    /// Notes that the child is the program by now, or gone.
    pub(super) fn finished(&self) {
        let _turn = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        self.pid.store(0, Ordering::Release);
    }

    pub(super) fn check(&self) -> io::Result<()> {
        match *self.given_up.lock().unwrap_or_else(PoisonError::into_inner) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}
