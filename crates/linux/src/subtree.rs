//! Parts of our file system, to be mounted elsewhere: held as open mounts, they keep working when what they were found by is renamed.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// Rights are what may be done through a mount. Nothing mounted this way gives privileges or opens devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    Read,
    /// Read, and execute programs: for libraries.
    Execute,
    ReadWrite,
}

/// Subtree is a directory or file of ours as a mount that is not attached anywhere yet.
#[derive(Debug)]
pub struct Subtree {
    mount: OwnedFd,
    is_directory: bool,
}

impl Subtree {
    /// Opens what `path` names, without what is mounted below it.
    ///
    /// # Errors
    /// There is nothing at the path, no right to mount, or a kernel before 5.12.
    pub fn open(path: &Path, rights: Rights) -> io::Result<Self> {
        let is_directory = path.metadata()?.is_dir();
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: a C string and plain numbers; the result is checked and owned below.
        let number = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let number = RawFd::try_from(number).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        let mount = unsafe { OwnedFd::from_raw_fd(number) };
        let set = match rights {
            Rights::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC,
            Rights::Execute => libc::MOUNT_ATTR_RDONLY,
            Rights::ReadWrite => libc::MOUNT_ATTR_NOEXEC,
        };
        let attributes = libc::mount_attr {
            attr_set: set | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
            attr_clr: 0,
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        // SAFETY: an open mount, an empty C string, and a structure of the size given.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { mount, is_directory })
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// Mounts it at `path` in the mount namespace of an open file like /proc/PID/ns/mnt. Blocks: a thread of its own does it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `path` is not there.
    pub fn attach_in(self, namespace: &File, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let attach = || {
            // A thread shares its root and working directory with all others until it says otherwise, and must not enter while it does.
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
            // SAFETY: an open mount, C strings and plain numbers.
            let moved = unsafe {
                libc::syscall(
                    libc::SYS_move_mount,
                    self.mount.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    libc::MOVE_MOUNT_F_EMPTY_PATH,
                )
            };
            if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, attach)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }
}

impl AsRawFd for Subtree {
    fn as_raw_fd(&self) -> RawFd {
        self.mount.as_raw_fd()
    }
}
