//! Walking a watcher's tree and asking the kernel to watch each directory in it.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{SFlag, fstat, fstatat};
use wrenn_domain::limits::WATCHED_DIRECTORIES_MAX;

use super::super::entry::kind;
use super::hub::{Hub, is_draft, too_many};
use crate::disk::{DiskError, entries, open_without_links};

/// Whether the watcher hears of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was there before the watcher, or the watcher was told to look for itself.
    Silently,
    /// It came with a new directory, before that could be watched.
    Announced,
}

/// Watches the directory `below` the watcher's root, and all directories in it if the watcher is recursive. Links are
/// not followed, and other file systems not entered: watching `/` must not mean /proc. Call with the actor's rights.
///
/// # Errors
/// The first directory cannot be watched, or there are too many. Deeper ones that vanish or may not be read are passed
/// over.
pub fn watch(hub: &Arc<Hub>, id: u64, below: PathBuf, found: Found) -> Result<(), DiskError> {
    let Some(ground) = hub.ground(id) else { return Ok(()) };
    let first = below.clone();
    let mut device = None;
    let mut ahead = vec![below];
    while let Some(below) = ahead.pop() {
        let path = ground.root.join(&below);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let opened = open_without_links(&path, flags).and_then(|fd| Ok((fstat(&fd)?.st_dev, fd)));
        let (fd_device, fd) = match opened {
            Ok(opened) => opened,
            Err(errno) if below == first && found == Found::Silently => {
                return Err(DiskError::io("watch", &path)(errno));
            }
            // It was gone again before we came, or it is not for this user.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::ENAMETOOLONG) => continue,
            Err(errno) => return Err(DiskError::io("watch", &path)(errno)),
        };
        if *device.get_or_insert(fd_device) != fd_device {
            continue;
        }
        // By its number: the path may mean another directory by now, and the kernel checks the user's rights all the
        // same.
        let by_number = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        if !hub.watch_directory(id, &by_number, &below)? {
            return Ok(());
        }
        if !ground.recursive {
            return Ok(());
        }
        // A second look at the same directory, for names that come without their kind.
        let look = fd.try_clone().map_err(DiskError::std("watch", &path))?;
        let mut dir = Dir::from_fd(fd).map_err(DiskError::io("watch", &path))?;
        for entry in entries(&mut dir) {
            let (name, told) = entry.map_err(DiskError::io("watch", &path))?;
            if is_draft(&name) {
                continue;
            }
            let child = below.join(&name);
            if found == Found::Announced {
                hub.announce(id, child.clone());
            }
            let is_dir = match told {
                Some(told) => told == Type::Directory,
                None => is_directory(&look, &name),
            };
            if is_dir {
                ahead.push(child);
            }
            // So many could not be watched anyway.
            if ahead.len() > WATCHED_DIRECTORIES_MAX {
                return Err(too_many(&ground.root));
            }
        }
    }
    Ok(())
}

fn is_directory(dir: &OwnedFd, name: &OsStr) -> bool {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat) == SFlag::S_IFDIR)
}
