//! Kernel modules: loads one from an open file. Resolves no dependencies; the caller knows the order.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::syscall::{SyscallError, check};

/// Loads the module in `file`; `name` is for the error text. A module that is there already is no error.
///
/// # Errors
/// The kernel's refusal: not root, wrong kernel, missing symbols, no such device.
pub fn load(file: &File, name: &str) -> Result<(), SyscallError> {
    // SAFETY: finit_module reads the file behind a descriptor that `file` keeps open, and a static empty C string.
    // No safe wrapper is used because nix's `kmod` feature is not part of the workspace.
    let answer = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match check(answer, "load kernel module", name) {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        other => other.map(|_| ()),
    }
}
