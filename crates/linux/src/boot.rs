//! Starting a background program while the guest boots, without slowing the boot down.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{ForkResult, execve, fork};

use crate::syscall::SyscallError;

/// The mark appears within a second of the boot; past this the program starts all the same.
const MARK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Starts `program` (absolute path, no arguments) in a child as soon as the path `mark` exists. Returns at once.
/// The caller must be single-threaded and must reap children, or become a program that does.
///
/// # Errors
/// The child could not be made.
pub fn start_after(mark: &str, program: &str, environment: &[&str]) -> Result<(), SyscallError> {
    let program_c = CString::new(program).unwrap_or_default();
    let environment: Vec<CString> = environment.iter().map(|pair| CString::new(*pair).unwrap_or_default()).collect();
    // SAFETY: the caller is single-threaded (the first process of a guest), so the child may use the allocator and any
    // lock freely. std::process::Command would start the program at once.
    match unsafe { fork() }.map_err(|e| SyscallError::new("fork for", program, e))? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            let began = Instant::now();
            while !Path::new(mark).exists() && began.elapsed() < MARK_WAIT_MAX {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = execve(&program_c, &[&program_c], &environment);
            std::process::exit(127)
        }
    }
}
