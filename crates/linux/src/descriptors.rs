//! The limit of open file descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors a process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Limit that counts.
    pub soft: u64,
    /// How far the process may raise it by itself.
    pub hard: u64,
}

/// The calling process's limit.
///
/// # Errors
/// The kernel's; there is no known one.
pub fn limit() -> std::io::Result<Limit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(Limit { soft, hard })
}

/// Sets the calling process's limit.
///
/// # Errors
/// `PermissionDenied` when the hard limit would rise and we are not root.
pub fn set_limit(limit: Limit) -> std::io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, limit.soft, limit.hard)?)
}
