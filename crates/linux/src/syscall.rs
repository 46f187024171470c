//! The error every wrapper of a system call returns: what was tried, on what, and the kernel's answer.

use std::io;

/// A system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{act} {target}")]
pub struct SyscallError {
    /// Act that was tried, as a verb: "mount", "set owner of".
    pub act: &'static str,
    /// On what: a path, a device, a pid.
    pub target: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl SyscallError {
    /// The failure of `act` on `target` with a known cause.
    pub fn new(act: &'static str, target: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { act, target: target.into(), source: source.into() }
    }

    /// The failure of `act` on `target` with the calling thread's errno.
    pub(crate) fn last(act: &'static str, target: impl Into<String>) -> Self {
        Self::new(act, target, io::Error::last_os_error())
    }

    /// The kernel's error number, when it gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Turns a C return value of -1 into the error.
pub(crate) fn check(
    value: libc::c_long,
    act: &'static str,
    target: impl Into<String>,
) -> Result<libc::c_long, SyscallError> {
    if value == -1 { Err(SyscallError::last(act, target)) } else { Ok(value) }
}
