//! Removing a file or a whole tree. A link is removed, never followed.
//!
//! Two open directories at most, however deep the tree: going up is opening `..`, which must be the directory we came
//! down from. Whoever moves directories about meanwhile can make the removal stop, but not make it remove elsewhere.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use wrenn_domain::limits::REMOVE_DEPTH_MAX;

use super::asking::Asking;
use super::entry::kind;
use crate::disk::{DiskError, EntryPath, Parents, entries, shown};

/// Names held at once of a directory that may have any number.
const BATCH: usize = 1024;

/// Removes what is at `path`, as long as somebody is `asking`.
///
/// # Errors
/// Nothing is there, `path` is `/` or ends in `..`, the user may not, or another file system is mounted in the tree.
/// What was removed before stays removed.
pub fn remove(path: &Path, asking: &Asking) -> Result<(), DiskError> {
    let entry_path = EntryPath::find(path, Parents::MustExist)?;
    let failed = || DiskError::io("remove", path);
    let is_dir = kind(&entry_path.stat().map_err(failed())?) == SFlag::S_IFDIR;
    let flag = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    // An empty directory goes at once, and a place where something is mounted says so before anything is lost.
    match unlinkat(&entry_path.dir, entry_path.name.as_os_str(), flag) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) if is_dir => {}
        other => return other.map_err(failed()),
    }
    let top = enter(&entry_path.dir, &entry_path.name).map_err(failed())?;
    Removal { path, asking, above: Vec::new() }.empty(top)?;
    unlinkat(&entry_path.dir, entry_path.name.as_os_str(), flag).map_err(failed())
}

struct Removal<'a> {
    path: &'a Path,
    asking: &'a Asking,
    /// The directories above the current one, from the top: which they are, and the name of the one below each.
    above: Vec<(Identity, OsString)>,
}

/// Which directory it is: device and number.
type Identity = (u64, u64);

fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn enter(dir: &impl AsFd, name: &OsStr) -> Result<Dir, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Dir::openat(dir, name, flags, Mode::empty())
}

impl Removal<'_> {
    /// Removes everything in `dir`.
    fn empty(&mut self, mut dir: Dir) -> Result<(), DiskError> {
        let failed = |act| DiskError::io(act, self.path);
        loop {
            if let Some(name) = self.sweep(&mut dir)? {
                let here = identity(&fstat(&dir).map_err(failed("look into"))?);
                dir = enter(&dir, &name).map_err(failed("look into"))?;
                self.above.push((here, name));
                if self.above.len() > REMOVE_DEPTH_MAX {
                    let text = format!("{} is deeper than {REMOVE_DEPTH_MAX} directories", shown(self.path));
                    return Err(DiskError::Conflict(text));
                }
                continue;
            }
            let Some((expected, name)) = self.above.pop() else { return Ok(()) };
            dir = enter(&dir, OsStr::new("..")).map_err(failed("return from below"))?;
            if identity(&fstat(&dir).map_err(failed("look into"))?) != expected {
                let text = format!("directories in {} were moved during the removal", shown(self.path));
                return Err(DiskError::Conflict(text));
            }
            unlinkat(&dir, name.as_os_str(), UnlinkatFlags::RemoveDir).map_err(failed("remove what is in"))?;
        }
    }

    /// Removes what goes at once, and answers the first directory that has to be emptied before.
    fn sweep(&self, dir: &mut Dir) -> Result<Option<OsString>, DiskError> {
        loop {
            // First the names, then the deeds: what a directory shows while it is being emptied is undefined.
            let names: Vec<_> = entries(dir).take(BATCH).collect();
            if names.is_empty() {
                return Ok(None);
            }
            for entry in names {
                self.asking.check()?;
                let (name, kind) = entry.map_err(DiskError::io("look into", self.path))?;
                match unlink(dir, &name, kind) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(Errno::ENOTEMPTY | Errno::EEXIST) => return Ok(Some(name)),
                    Err(errno) => return Err(DiskError::io("remove what is in", self.path)(errno)),
                }
            }
        }
    }
}

/// Removes a file or an empty directory, whichever it is.
fn unlink(dir: &Dir, name: &OsStr, kind: Option<Type>) -> Result<(), Errno> {
    let as_file = || unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
    let as_dir = || unlinkat(dir, name, UnlinkatFlags::RemoveDir);
    match kind {
        Some(Type::Directory) => as_dir().or_else(|errno| if errno == Errno::ENOTDIR { as_file() } else { Err(errno) }),
        _ => as_file().or_else(|errno| if errno == Errno::EISDIR { as_dir() } else { Err(errno) }),
    }
}
