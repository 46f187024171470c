//! The machine's host name.

use crate::syscall::SyscallError;

/// Sets the host name, at most 64 bytes.
///
/// # Errors
/// Not root, or too long.
pub fn set(name: &str) -> Result<(), SyscallError> {
    nix::unistd::sethostname(name).map_err(|e| SyscallError::new("set host name to", name, e))
}
