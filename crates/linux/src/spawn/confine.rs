//! Steps of a child that confine it, in the order in which each is still allowed.
//!
//! The rules of [`super::child`] hold: nothing but plain system calls on what the parent prepared.

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_long, c_ulong};

use super::confinement::{Confinement, Entry};
use super::raw::call;
use super::step::Step;

/// Directory every system has; the new root is put together over it, in the child's own mount namespace.
const STAGE: &CStr = c"/proc";
const TMPFS: &CStr = c"tmpfs";
/// Room for some dozens of empty directories and files.
const TMPFS_OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=128";
const HERE: &CStr = c".";
const SLASH: &CStr = c"/";
const EMPTY: &CStr = c"";
const HOST_NAME: &[u8] = b"vmm";
/// Capabilities are numbered from 0; the kernel refuses the first number that is none.
const CAPABILITIES_MAX: c_ulong = 64;
/// Version 3 of the kernel's capability sets: two words for each of three sets.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Namespaces a confined child is made with.
pub(super) const NAMESPACES: c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Confines the calling child, all but what it inherits. Returns the step that failed.
///
/// # Safety
/// As [`super::child::run`], in a child made with [`NAMESPACES`].
pub(super) unsafe fn confine(confinement: &Confinement) -> Result<(), (Step, c_int)> {
    // SAFETY: system calls with plain numbers and pointers into what the waiting parent holds.
    unsafe {
        let network = confinement.network.as_raw_fd();
        call(libc::syscall(libc::SYS_setns, network, libc::CLONE_NEWNET)).map_err(|e| (Step::Network, e))?;
        call(libc::syscall(libc::SYS_sethostname, HOST_NAME.as_ptr(), HOST_NAME.len())).map_err(|e| (Step::Root, e))?;
        set_root(confinement).map_err(|e| (Step::Root, e))?;
        drop_rights(confinement.user)
    }
}

/// Lets what is inherited pass into the program. To be done last: everything else was marked to be closed.
///
/// # Safety
/// As [`super::child::run`].
pub(super) unsafe fn keep_inherited(confinement: &Confinement) -> Result<(), c_int> {
    for descriptor in &confinement.inherited {
        // SAFETY: plain numbers, in the child's own table of descriptors.
        call(unsafe { libc::syscall(libc::SYS_fcntl, descriptor.as_raw_fd(), libc::F_SETFD, 0) })?;
    }
    Ok(())
}

/// Puts the new root together and makes it the only file system there is.
unsafe fn set_root(confinement: &Confinement) -> Result<(), c_int> {
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    // SAFETY: constant C strings and plain numbers.
    unsafe {
        // Nothing mounted here may reach the namespace we came from.
        mount(ptr::null(), SLASH, ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null())?;
        mount(TMPFS.as_ptr(), STAGE, TMPFS.as_ptr(), flags, TMPFS_OPTIONS.as_ptr())?;
        call(libc::syscall(libc::SYS_chdir, STAGE.as_ptr()))?;
        libc::syscall(libc::SYS_umask, 0);
        for entry in &confinement.root.entries {
            make(entry, confinement.user)?;
        }
        // The old root comes to lie on the new one, and is taken from there.
        call(libc::syscall(libc::SYS_pivot_root, HERE.as_ptr(), HERE.as_ptr()))?;
        call(libc::syscall(libc::SYS_umount2, HERE.as_ptr(), libc::MNT_DETACH))?;
        call(libc::syscall(libc::SYS_chdir, SLASH.as_ptr()))?;
        mount(ptr::null(), SLASH, ptr::null(), flags | libc::MS_REMOUNT | libc::MS_RDONLY, ptr::null())?;
        libc::syscall(libc::SYS_umask, 0o077);
    }
    Ok(())
}

unsafe fn mount(
    source: *const libc::c_char,
    target: &CStr,
    kind: *const libc::c_char,
    flags: c_ulong,
    options: *const libc::c_char,
) -> Result<(), c_int> {
    // SAFETY: the caller's pointers are null or C strings.
    call(unsafe { libc::syscall(libc::SYS_mount, source, target.as_ptr(), kind, flags, options) })
}

/// Makes one entry below the working directory. A directory that is there already is one that several paths share.
unsafe fn make(entry: &Entry, user: u32) -> Result<(), c_int> {
    // SAFETY: C strings that the parent holds, and plain numbers.
    unsafe {
        match entry {
            Entry::Directory { path } => {
                match call(libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), 0o755)) {
                    Err(libc::EEXIST) => Ok(()),
                    other => other,
                }
            }
            Entry::File { path } => {
                let mode = libc::S_IFREG | 0o644;
                call(libc::syscall(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), mode, 0))
            }
            Entry::Link { path, target } => {
                call(libc::syscall(libc::SYS_symlinkat, target.as_ptr(), libc::AT_FDCWD, path.as_ptr()))
            }
            Entry::Device { path, number } => {
                let mode = libc::S_IFCHR | 0o600;
                call(libc::syscall(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), mode, *number))?;
                call(libc::syscall(libc::SYS_fchownat, libc::AT_FDCWD, path.as_ptr(), user, user, 0))
            }
            Entry::Scratch { path, options } => {
                let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
                mount(TMPFS.as_ptr(), path, TMPFS.as_ptr(), flags, options.as_ptr())
            }
            Entry::Mount { path, subtree } => call(libc::syscall(
                libc::SYS_move_mount,
                subtree.as_raw_fd(),
                EMPTY.as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )),
        }
    }
}

/// Becomes the user and gives up every capability, also those a program could give back.
unsafe fn drop_rights(user: u32) -> Result<(), (Step, c_int)> {
    // SAFETY: plain numbers, and two arrays of the layout the kernel reads.
    unsafe {
        for capability in 0..CAPABILITIES_MAX {
            match call(prctl(libc::PR_CAPBSET_DROP, capability)) {
                Err(libc::EINVAL) => break,
                other => other.map_err(|e| (Step::Capabilities, e))?,
            }
        }
        let none = ptr::null::<u32>();
        call(libc::syscall(libc::SYS_setgroups, 0, none)).map_err(|e| (Step::Groups, e))?;
        call(libc::syscall(libc::SYS_setresgid, user, user, user)).map_err(|e| (Step::Group, e))?;
        call(libc::syscall(libc::SYS_setresuid, user, user, user)).map_err(|e| (Step::User, e))?;
        // Becoming the user emptied the other sets; the inheritable one is left.
        let header = [CAPABILITY_VERSION, 0];
        let sets = [0u32; 6];
        call(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr())).map_err(|e| (Step::Capabilities, e))?;
        call(prctl(libc::PR_SET_NO_NEW_PRIVS, 1)).map_err(|e| (Step::Capabilities, e))?;
        let no_core = [0u64; 2];
        let limited =
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, no_core.as_ptr(), ptr::null_mut::<u64>());
        call(limited).map_err(|e| (Step::Limits, e))
    }
}

unsafe fn prctl(option: c_int, argument: c_ulong) -> c_long {
    // SAFETY: options with one plain number.
    unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0, 0, 0) }
}
