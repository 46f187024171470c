//! A child of ours: awaited through its pidfd, signalled as a group, reaped once.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code, 0 to 255.
    Code(i32),
    /// By this signal.
    Signal { number: i32, core_dumped: bool },
}

/// A started process, ended or not, that nobody has reaped. Until [`Child::reap`] its pid belongs to no other.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    in_cgroup: bool,
    pidfd: AsyncFd<OwnedFd>,
}

impl Child {
    pub(crate) fn hold(pid: i32, pidfd: OwnedFd, in_cgroup: bool) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the AsyncFd from here on and closed only after it is deregistered.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { pid, in_cgroup, pidfd })
    }

    /// Process id; also that of its group and session.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it was started in the cgroup it was meant for.
    pub fn in_cgroup(&self) -> bool {
        self.in_cgroup
    }

    /// Waits for its end. It stays to be reaped.
    ///
    /// # Errors
    /// Somebody else reaped it.
    pub async fn ended(&self) -> io::Result<Exit> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            if let Some(exit) = self.wait(libc::WNOHANG | libc::WNOWAIT)? {
                return Ok(exit);
            }
            ready.clear_ready();
        }
    }

    /// Frees the pid of an ended process. One that still runs is reaped by the first process of the system after us.
    pub fn reap(self) {
        let _ = self.wait(libc::WNOHANG);
    }

    /// Waits for one that is known to be ending, and reaps it. Blocking.
    pub(crate) fn reap_ended(self) {
        let _ = self.wait(0);
    }

    fn wait(&self, flags: i32) -> io::Result<Option<Exit>> {
        let id = self.pidfd.get_ref().as_raw_fd();
        let id = libc::id_t::try_from(id).map_err(io::Error::other)?;
        // SAFETY: siginfo_t is plain data, for which all zeroes are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: an open pidfd and a siginfo_t of our own.
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | flags) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: waitid filled the parts that belong to a child's end, or left all zeroes.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            code => Exit::Signal { number: status, core_dumped: code == libc::CLD_DUMPED },
        }))
    }
}

/// Signals every process of a group. A group with nobody left alive is no error.
///
/// # Errors
/// Its processes belong to somebody we may not signal.
pub fn signal_group(group: i32, signal: Signal) -> io::Result<()> {
    // 0 and 1 would be our own group and, read as -1, every process there is.
    if group <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status: {code}"),
            Exit::Signal { number, core_dumped } => {
                write!(f, "signal: {number}")?;
                if let Ok(signal) = Signal::try_from(*number) {
                    write!(f, " ({signal})")?;
                }
                f.write_str(if *core_dumped { " (core dumped)" } else { "" })
            }
        }
    }
}
