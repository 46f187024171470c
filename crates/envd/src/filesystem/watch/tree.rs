//! Walking a watcher's tree and asking the kernel to watch each directory in it.
//!
//! A directory that came into a watched tree is watched, then read, and only then told of: whoever hears of it and puts
//! something in is sure to hear of that from the kernel, once. What was in it already is told of after it; a file that
//! is not empty counts as written, because nobody can say when it was.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use wrenn_domain::limits::{WATCHED_DIRECTORIES_MAX, WATCHER_EVENTS_MAX};

use super::super::entry::kind;
use super::event::EventKind;
use super::hub::{Ground, Hub, too_many};
use crate::disk::{DiskError, DraftName, entries, open_without_links};

/// Whether the watcher hears of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Entries were there before the watcher, or the watcher was told to look for itself.
    Silently,
    /// Entries came with a new directory, before that could be watched.
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
    let mut walk = Walk { hub, id, ground, found, first: below.clone(), device: None, ahead: vec![below] };
    while let Some(below) = walk.ahead.pop() {
        walk.step(below)?;
    }
    Ok(())
}

struct Walk<'a> {
    hub: &'a Arc<Hub>,
    id: u64,
    ground: Ground,
    found: Found,
    /// Where it began.
    first: PathBuf,
    /// The file system it stays on.
    device: Option<u64>,
    /// Directories still to be watched.
    ahead: Vec<PathBuf>,
}

/// Contents of a directory besides directories.
struct Contents {
    files: Vec<(PathBuf, &'static [EventKind])>,
    /// There was more than a watcher can be told.
    cut: bool,
}

impl Walk<'_> {
    fn step(&mut self, below: PathBuf) -> Result<(), DiskError> {
        let watched = self.watch_one(&below);
        let contents = match &watched {
            Ok(Some(fd)) if self.ground.recursive => self.read(fd, &below),
            _ => Ok(Contents { files: Vec::new(), cut: false }),
        };
        if self.found == Found::Announced {
            self.hub.announce(self.id, below, &[EventKind::Create]);
        }
        watched?;
        let contents = contents?;
        for (child, kinds) in contents.files {
            self.hub.announce(self.id, child, kinds);
        }
        if contents.cut {
            self.hub.lose(self.id);
        }
        Ok(())
    }

    /// Answers none for a directory that is passed over, or when the watcher is gone.
    fn watch_one(&mut self, below: &Path) -> Result<Option<OwnedFd>, DiskError> {
        let path = self.ground.root.join(below);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let opened = open_without_links(&path, flags).and_then(|fd| Ok((fstat(&fd)?.st_dev, fd)));
        let (device, fd) = match opened {
            Ok(opened) => opened,
            Err(errno) if below == self.first && self.found == Found::Silently => {
                return Err(DiskError::io("watch", &path)(errno));
            }
            // It was gone again before we came, or it is not for this user.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::ENAMETOOLONG) => {
                return Ok(None);
            }
            Err(errno) => return Err(DiskError::io("watch", &path)(errno)),
        };
        if *self.device.get_or_insert(device) != device {
            return Ok(None);
        }
        // By its number: the path may mean another directory by now, and the kernel checks the user's rights all the
        // same.
        let by_number = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Ok(self.hub.watch_directory(self.id, &by_number, below)?.then_some(fd))
    }

    /// Notes the directories in a directory as being ahead, and answers the rest where somebody will hear of it.
    fn read(&mut self, fd: &OwnedFd, below: &Path) -> Result<Contents, DiskError> {
        let path = self.ground.root.join(below);
        let again = fd.try_clone().map_err(DiskError::std("watch", &path))?;
        let mut dir = Dir::from_fd(again).map_err(DiskError::io("watch", &path))?;
        let mut contents = Contents { files: Vec::new(), cut: false };
        for entry in entries(&mut dir) {
            let (name, kind_hint) = entry.map_err(DiskError::io("watch", &path))?;
            let announced = self.found == Found::Announced;
            if DraftName::of(&name).is_some()
                || (!announced && kind_hint.is_some_and(|kind_hint| kind_hint != Type::Directory))
            {
                continue;
            }
            let is_dir = match kind_hint {
                Some(kind_hint) => kind_hint == Type::Directory,
                // Some file systems do not tell.
                None => inspect(fd, &name).is_some_and(|stat| kind(&stat) == SFlag::S_IFDIR),
            };
            let child = below.join(&name);
            if is_dir {
                self.ahead.push(child);
                // So many could not be watched anyway.
                if self.ahead.len() > WATCHED_DIRECTORIES_MAX {
                    return Err(too_many(&self.ground.root));
                }
            } else if announced && contents.files.len() < WATCHER_EVENTS_MAX {
                contents.files.push((child, news(fd, &name)));
            } else if announced {
                contents.cut = true;
            }
        }
        Ok(contents)
    }
}

/// Events for something that was there when its directory was read.
fn news(dir: &OwnedFd, name: &OsStr) -> &'static [EventKind] {
    match inspect(dir, name) {
        Some(stat) if kind(&stat) == SFlag::S_IFREG && stat.st_size > 0 => &[EventKind::Create, EventKind::Write],
        _ => &[EventKind::Create],
    }
}

fn inspect(dir: &OwnedFd, name: &OsStr) -> Option<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}
