//! Answers of raw system calls, in a child that may call nothing else of libc.

use libc::{c_int, c_long};

/// Fails with the error number of a system call that failed.
pub(super) fn call(result: c_long) -> Result<(), c_int> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// The calling thread's, which the child has in common with the parent's waiting one.
pub(super) fn errno() -> c_int {
    // SAFETY: libc's pointer to the thread's own errno is always valid.
    unsafe { *libc::__errno_location() }
}
