//! What a confined program finds around it: a root that holds what was given, namespaces of its own, one network, no rights.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::subtree::Subtree;

/// Confinement is all a program is given. It has its own mount, process, IPC and host name namespaces, the network namespace of
/// `network`, no capability, and may gain none.
#[derive(Debug)]
pub struct Confinement {
    /// Network namespace the program runs in.
    pub network: OwnedFd,
    /// User and group it runs as; it belongs to no other group.
    pub user: u32,
    /// Everything in its file system.
    pub root: Root,
    /// Descriptors it inherits under the numbers they have here, besides its three streams.
    pub inherited: Vec<OwnedFd>,
}

/// Root is the file system of a confined program: a read-only tmpfs with what was put into it.
#[derive(Debug, Default)]
pub struct Root {
    pub(super) entries: Vec<Entry>,
}

/// Entry of a root, at a path below it that does not begin with a slash.
#[derive(Debug)]
pub(super) enum Entry {
    Directory {
        path: CString,
    },
    /// Empty file to mount something on.
    File {
        path: CString,
    },
    Link {
        path: CString,
        target: CString,
    },
    /// Character device, the program's own.
    Device {
        path: CString,
        number: libc::dev_t,
    },
    Mount {
        path: CString,
        subtree: Subtree,
    },
    /// Memory file system of the program's own, on a directory.
    Scratch {
        path: CString,
        options: CString,
    },
}

impl Root {
    /// Makes an empty directory; its parents must be there.
    ///
    /// # Errors
    /// The path holds a null byte.
    pub fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.entries.push(Entry::Directory { path: inside(path)? });
        Ok(())
    }

    /// Makes an empty file on which something can be mounted later; see [`Subtree::attach_in`].
    ///
    /// # Errors
    /// The path holds a null byte.
    pub fn file(&mut self, path: &Path) -> io::Result<()> {
        self.entries.push(Entry::File { path: inside(path)? });
        Ok(())
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// A path holds a null byte.
    pub fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        self.entries.push(Entry::Link { path: inside(path)?, target: CString::new(target.as_os_str().as_bytes())? });
        Ok(())
    }

    /// Makes a character device that only the program may use.
    ///
    /// # Errors
    /// The path holds a null byte.
    pub fn device(&mut self, path: &Path, major: u32, minor: u32) -> io::Result<()> {
        self.entries.push(Entry::Device { path: inside(path)?, number: libc::makedev(major, minor) });
        Ok(())
    }

    /// Mounts part of our file system on a directory or file that was made before.
    ///
    /// # Errors
    /// The path holds a null byte.
    pub fn mount(&mut self, path: &Path, subtree: Subtree) -> io::Result<()> {
        self.entries.push(Entry::Mount { path: inside(path)?, subtree });
        Ok(())
    }

    /// Makes a directory that only the program may write into, for at most `bytes` bytes; they are memory, gone with it.
    ///
    /// # Errors
    /// The path holds a null byte.
    pub fn scratch(&mut self, path: &Path, bytes: u64, user: u32) -> io::Result<()> {
        self.directory(path)?;
        let options = CString::new(format!("mode=0700,uid={user},gid={user},size={bytes},nr_inodes=64"))?;
        self.entries.push(Entry::Scratch { path: inside(path)?, options });
        Ok(())
    }

    /// Gives a directory or file of ours at `path`, made together with its parents.
    ///
    /// # Errors
    /// The path holds a null byte.
    pub fn give(&mut self, path: &Path, subtree: Subtree) -> io::Result<()> {
        let parents: Vec<&Path> = path.ancestors().skip(1).filter(|part| part.file_name().is_some()).collect();
        for parent in parents.into_iter().rev() {
            self.directory(parent)?;
        }
        if subtree.is_directory() {
            self.directory(path)?
        } else {
            self.file(path)?
        }
        self.mount(path, subtree)
    }
}

/// Path as seen from the root, without its slash.
fn inside(path: &Path) -> io::Result<CString> {
    let path = path.strip_prefix("/").unwrap_or(path);
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
