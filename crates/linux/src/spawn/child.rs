//! Work of the child before it becomes the program: in our memory, on a small stack of its own.
//!
//! Must never: allocate, lock, panic, or call anything of libc but plain system calls. Other threads of ours run on and
//! may hold any lock, and what libc does beside the call (its setuid tells every thread) would be done to us.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use libc::{c_char, c_int};

use super::confine;
use super::confinement::Confinement;
use super::raw::{call, errno};
use super::step::{Credentials, Step};
use crate::descriptors::Limit;

/// Signals of Linux are 1 to 64.
const SIGNALS: c_int = 64;
/// Bytes of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;
/// Exit code of a child that never became the program; nobody sees it but us.
const FAILED: c_int = 127;

const SELF_OOM_SCORE: &std::ffi::CStr = c"/proc/self/oom_score_adj";
const ROOT: &std::ffi::CStr = c"/";
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// Orders are what the child shall do: everything prepared, so that it only has to read.
pub(super) struct Orders<'a> {
    pub programs: *const *const c_char,
    /// Begins with one free place.
    pub args: *mut *const c_char,
    pub env: *const *const c_char,
    pub directory: *const c_char,
    pub or_root: bool,
    /// Null: stay who we are.
    pub user: *const Credentials,
    pub streams: [c_int; 3],
    pub terminal: bool,
    /// Decimal; empty: stay as we are.
    pub oom_score: &'a [u8],
    pub descriptors: Option<Limit>,
    /// Null: in the namespaces we are in.
    pub confinement: *const Confinement,
    /// The child runs; it writes this first. The kernel may end one before that; see [`super::clone`].
    pub began: AtomicBool,
    pub failed: Failed,
}

/// Where the child leaves word. Written by it alone, read by us once it is the program or gone.
#[derive(Default)]
pub(super) struct Failed {
    step: AtomicU32,
    errno: AtomicI32,
}

impl Failed {
    /// Step that failed and why, if any did.
    pub fn read(&self) -> Option<(Step, io::Error)> {
        let step = Step::from_number(self.step.load(Ordering::Acquire))?;
        Some((step, io::Error::from_raw_os_error(self.errno.load(Ordering::Relaxed))))
    }
}

/// The child's whole life. `orders` is an [`Orders`] that outlives it: the parent waits.
///
/// # Safety
/// To be called only in a fresh child that shares our memory, with all signals blocked and the parent's thread waiting.
pub(super) unsafe extern "C" fn run(orders: *mut libc::c_void) -> ! {
    // SAFETY: the pointer is to the waiting parent's Orders, which nobody else touches.
    let orders = unsafe { &*orders.cast::<Orders<'_>>() };
    orders.began.store(true, Ordering::Release);
    // SAFETY: this is the child the steps are meant for; they need what this function was promised.
    let (step, errno) = unsafe { become_program(orders) };
    orders.failed.errno.store(errno, Ordering::Relaxed);
    orders.failed.step.store(step as u32, Ordering::Release);
    loop {
        // SAFETY: ends this process alone; libc's exit would run our handlers and flush our buffers.
        unsafe { libc::syscall(libc::SYS_exit_group, FAILED) };
    }
}

/// Returns only when a step failed.
unsafe fn become_program(orders: &Orders<'_>) -> (Step, c_int) {
    // SAFETY: system calls with plain numbers and pointers into Orders, which is whole and outlives the child.
    unsafe {
        forget_signal_handlers();
        let mut failure = call(libc::syscall(libc::SYS_setsid)).err().map(|e| (Step::Session, e));
        let mut then = |step: Step, result: &dyn Fn() -> Result<(), c_int>| {
            if failure.is_none() {
                failure = result().err().map(|e| (step, e));
            }
        };
        then(Step::OomScore, &|| set_oom_score(orders.oom_score));
        then(Step::Descriptors, &|| set_descriptors(orders.descriptors));
        then(Step::Streams, &|| connect_streams(orders.streams));
        then(Step::Terminal, &|| take_terminal(orders.terminal));
        if let Some(user) = orders.user.as_ref() {
            // In this order: once the user is another one, groups can no longer be set.
            then(Step::Groups, &|| call(libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr())));
            then(Step::Group, &|| call(libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid)));
            then(Step::User, &|| call(libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid)));
        }
        let confinement = orders.confinement.as_ref();
        if let (None, Some(confinement)) = (failure, confinement) {
            failure = confine::confine(confinement).err();
        }
        let mut then = |step: Step, result: &dyn Fn() -> Result<(), c_int>| {
            if failure.is_none() {
                failure = result().err().map(|e| (step, e));
            }
        };
        // After the rights are the user's own: a directory closed to the user stays closed.
        then(Step::Directory, &|| enter_directory(orders));
        if let Some(failure) = failure {
            return failure;
        }
        libc::syscall(libc::SYS_umask, if confinement.is_some() { 0o077 } else { 0o022 });
        // Whatever we hold that somebody forgot to mark. Kernels before 5.11 do not know it; all we open is marked.
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if let Some(confinement) = confinement
            && let Err(error) = confine::keep_inherited(confinement)
        {
            return (Step::Inherited, error);
        }
        let none = 0u64;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        );
        (Step::Program, execute(orders))
    }
}

/// Our handlers would run in our memory; what we ignore (broken pipes) the program shall not.
unsafe fn forget_signal_handlers() {
    // The kernel's sigaction: handler, flags, restorer, mask; all zero is the default action.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: the kernel reads 32 bytes. It refuses for SIGKILL and SIGSTOP, which have no handlers.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), SIGNAL_SET_BYTES)
        };
    }
}

/// The child shares its memory with us, but the kernel leaves the score of a waiting parent alone.
unsafe fn set_oom_score(text: &[u8]) -> Result<(), c_int> {
    if text.is_empty() {
        return Ok(());
    }
    // SAFETY: an open, a write of a valid slice and a close.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, SELF_OOM_SCORE.as_ptr(), flags, 0);
        call(fd)?;
        let written = call(libc::syscall(libc::SYS_write, fd, text.as_ptr(), text.len()));
        libc::syscall(libc::SYS_close, fd);
        written
    }
}

unsafe fn set_descriptors(limit: Option<Limit>) -> Result<(), c_int> {
    let Some(limit) = limit else { return Ok(()) };
    let pair = [limit.soft, limit.hard];
    // SAFETY: the kernel's rlimit64 is two 64-bit numbers; pid 0 is the child.
    unsafe { call(libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, pair.as_ptr(), ptr::null_mut::<u64>())) }
}

unsafe fn connect_streams(streams: [c_int; 3]) -> Result<(), c_int> {
    for (target, stream) in (0 as c_int..).zip(streams) {
        // SAFETY: plain numbers. Standard descriptors of ours are open, so no stream has the number of a target; dup3
        // refuses equal ones.
        call(unsafe { libc::syscall(libc::SYS_dup3, stream, target, 0) })?;
    }
    Ok(())
}

unsafe fn take_terminal(terminal: bool) -> Result<(), c_int> {
    if !terminal {
        return Ok(());
    }
    // SAFETY: an ioctl with plain numbers on standard input. The 0 means: do not steal it from another session.
    call(unsafe { libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0usize) })
}

unsafe fn enter_directory(orders: &Orders<'_>) -> Result<(), c_int> {
    // SAFETY: both are C strings that outlive the child.
    unsafe {
        let entered = call(libc::syscall(libc::SYS_chdir, orders.directory));
        if entered.is_ok() || !orders.or_root {
            return entered;
        }
        call(libc::syscall(libc::SYS_chdir, ROOT.as_ptr()))
    }
}

/// Tries the programs in order. Returns why none runs.
unsafe fn execute(orders: &Orders<'_>) -> c_int {
    let mut answer = libc::ENOENT;
    let mut next = orders.programs;
    // SAFETY: the lists end with a null and outlive the child; the arguments' first place is ours to fill.
    unsafe {
        while !(*next).is_null() {
            let program = *next;
            next = next.add(1);
            libc::syscall(libc::SYS_execve, program, orders.args.add(1), orders.env);
            match errno() {
                // Not there; keep an earlier "permission denied", which says more.
                libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT => {}
                libc::EACCES => answer = libc::EACCES,
                libc::ENOEXEC => {
                    // A script that does not say what runs it: the shell, as execvp and every shell do.
                    *orders.args = SHELL.as_ptr();
                    *orders.args.add(1) = program;
                    libc::syscall(libc::SYS_execve, SHELL.as_ptr(), orders.args, orders.env);
                    return errno();
                }
                other => return other,
            }
        }
    }
    answer
}
