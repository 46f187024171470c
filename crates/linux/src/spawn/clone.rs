//! Creation of a child in our memory: clone3 right into a cgroup, or plain clone on kernels and sandboxes without it.
//!
//! The child is created in its cgroup, because moving a process later makes the kernel wait for all CPUs (10 ms and more on an
//! idle machine).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::Ordering;

use super::child::{self, Orders};
use super::pending_start::PendingStart;

/// Bytes of the child's stack: it calls a few functions deep and keeps nothing large.
const STACK_BYTES: usize = 32 * 1024;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The child's pid is written by the kernel in the child, before anything else: the one way both calls have left for it.
const FLAGS: libc::c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::CLONE_CHILD_SETTID;

/// Cloned is the child, which by now is the program or has ended.
pub(super) struct Cloned {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub in_cgroup: bool,
}

/// The kernel's `struct clone_args`, as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Runs [`child::run`] on `orders` in a child. Returns when the child became the program or ended.
pub(super) fn clone(
    orders: &mut Orders<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    pending: &PendingStart,
) -> io::Result<Cloned> {
    // A signal between clone and exec would run a handler of ours in the child, in our memory.
    let _blocked = SignalsBlocked::new();
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    if let Some(cgroup) = cgroup {
        pending.check()?;
        let created = into_cgroup(&mut stack, cgroup, orders, pending);
        pending.finished();
        match created {
            Ok(cloned) if orders.began.load(Ordering::Acquire) => return Ok(cloned),
            // Some kernels kill whatever is created in a cgroup that was ever killed, before its first instruction.
            Ok(stillborn) => drop(nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(stillborn.pid), None)),
            Err(error @ (libc::EAGAIN | libc::ENOMEM)) => return Err(io::Error::from_raw_os_error(error)),
            // Any other answer may be about the cgroup: without it the program can still run.
            Err(_) => {}
        }
    }
    pending.check()?;
    let created = plain(&mut stack, orders, pending);
    pending.finished();
    created.map_err(io::Error::from_raw_os_error)
}

/// Fails with the kernel's error number.
fn into_cgroup(
    stack: &mut [u128],
    cgroup: BorrowedFd<'_>,
    orders: &mut Orders<'_>,
    pending: &PendingStart,
) -> Result<Cloned, i32> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: FLAGS as u64 | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: pending.pid_address() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    let pid = clone3(&mut args, orders)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    Ok(Cloned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, in_cgroup: true })
}

/// Runs [`child::run`] on `orders` in a child with namespaces of its own. Its pid is the one in ours: what the kernel would write
/// in the child is the number it has in its own.
pub(super) fn in_namespaces(orders: &mut Orders<'_>, namespaces: libc::c_int) -> io::Result<Cloned> {
    let _blocked = SignalsBlocked::new();
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    let flags = (FLAGS & !libc::CLONE_CHILD_SETTID) | namespaces;
    by_libc(&mut stack, orders, flags, ptr::null_mut()).map_err(io::Error::from_raw_os_error)
}

/// Fails with the kernel's error number.
fn plain(stack: &mut [u128], orders: &mut Orders<'_>, pending: &PendingStart) -> Result<Cloned, i32> {
    by_libc(stack, orders, FLAGS, pending.pid_address())
}

/// By libc's wrapper, which knows how to give the child its stack on every machine. Fails with the kernel's error number.
fn by_libc(
    stack: &mut [u128],
    orders: &mut Orders<'_>,
    flags: libc::c_int,
    pid_address: *mut libc::pid_t,
) -> Result<Cloned, i32> {
    extern "C" fn begin(orders: *mut libc::c_void) -> libc::c_int {
        // SAFETY: we are the fresh child `run` is for, signals are blocked, and the parent waits.
        unsafe { child::run(orders) }
    }
    let mut pidfd: RawFd = -1;
    let top = stack.as_mut_ptr_range().end.cast();
    let no_tls = ptr::null_mut::<libc::c_void>();
    // SAFETY: the stack is ours alone and outlives the child's use of it, since CLONE_VFORK makes us wait; `pidfd` and
    // the address in `pending` are where the kernel puts descriptor and pid.
    let pid = unsafe {
        libc::clone(
            begin,
            top,
            flags | libc::SIGCHLD,
            ptr::from_mut(orders).cast(),
            &raw mut pidfd,
            no_tls,
            pid_address,
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN));
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    Ok(Cloned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, in_cgroup: false })
}

/// Answers the child's pid or the kernel's error number.
#[cfg(target_arch = "x86_64")]
fn clone3(args: &mut CloneArgs, orders: &mut Orders<'_>) -> Result<i32, i32> {
    let result: i64;
    // SAFETY: the child gets a stack of its own and never returns from `run`, so it cannot disturb this frame; the
    // parent's registers are as the kernel found them. A library function cannot do this: it would return in the child
    // through a frame that the parent still needs.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_mut(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") ptr::from_mut(orders),
            in("r13") child::run as unsafe extern "C" fn(*mut libc::c_void) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer(result)
}

/// Answers the child's pid or the kernel's error number.
#[cfg(target_arch = "aarch64")]
fn clone3(args: &mut CloneArgs, orders: &mut Orders<'_>) -> Result<i32, i32> {
    let result: i64;
    // SAFETY: the child gets a stack of its own and never returns from `run`, so it cannot disturb this frame; the
    // parent's registers are as the kernel found them. A library function cannot do this: it would return in the child
    // through a frame that the parent still needs.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") ptr::from_mut(args) => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") ptr::from_mut(orders),
            in("x21") child::run as unsafe extern "C" fn(*mut libc::c_void) -> !,
        );
    }
    answer(result)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn clone3(_: &mut CloneArgs, _: &mut Orders<'_>) -> Result<i32, i32> {
    Err(libc::ENOSYS)
}

/// A kernel's raw answer: small negative numbers are errors.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn answer(result: i64) -> Result<i32, i32> {
    let number = i32::try_from(result).unwrap_or(-libc::EINVAL);
    if number < 0 { Err(-number) } else { Ok(number) }
}

/// All signals of the calling thread blocked, even the two that libc keeps for itself.
struct SignalsBlocked {
    before: u64,
}

impl SignalsBlocked {
    fn new() -> Self {
        Self { before: set_mask(u64::MAX) }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        set_mask(self.before);
    }
}

/// Returns the mask before.
fn set_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: two valid 64-bit sets, which is the size given. libc's own function would leave two signals unblocked.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut before, size_of::<u64>())
    };
    before
}
