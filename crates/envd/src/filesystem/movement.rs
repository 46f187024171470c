//! Moving: a rename where that is possible, and a copy with the original removed afterwards where a file crosses into
//! another file system (a guest's /tmp is one of its own).

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use wrenn_domain::limits::FILE_CHUNK_BYTES;

use super::asking::Asking;
use super::entry::kind;
use crate::disk::{Actor, Attributes, DiskError, Draft, EntryPath, Parents, open_at, reopen, shown};

/// Moves `from` to `to`, making the directories of `to`. A file at `to` is replaced in one step; an empty directory
/// can be replaced by a directory.
///
/// # Errors
/// Nothing at `from`, something at `to` that cannot be replaced, or the user may not. Directories do not cross into
/// another file system.
pub fn rename(actor: &Arc<Actor>, from: &Path, to: &Path, asking: &Asking) -> Result<(), DiskError> {
    let source = EntryPath::find(from, Parents::MustExist)?;
    // Before directories are made for something that is not there.
    let stat = source.stat().map_err(DiskError::io("move", from))?;
    let target = EntryPath::find(to, Parents::Make)?;
    match renameat(&source.dir, source.name.as_os_str(), &target.dir, target.name.as_os_str()) {
        Err(Errno::EXDEV) if kind(&stat) == SFlag::S_IFREG => copy_over(actor, &source, to, asking),
        Err(Errno::EXDEV) => Err(DiskError::Conflict(format!(
            "{} and {} are on different file systems, between which only regular files can be moved",
            shown(from),
            shown(to)
        ))),
        Err(Errno::EEXIST | Errno::ENOTEMPTY) => {
            Err(DiskError::Conflict(format!("{} is a directory that is not empty", shown(to))))
        }
        Err(Errno::EISDIR) => Err(DiskError::IsDirectory(shown(to))),
        other => other.map_err(DiskError::io("move", from)),
    }
}

fn copy_over(actor: &Arc<Actor>, source: &EntryPath, to: &Path, asking: &Asking) -> Result<(), DiskError> {
    let failed = || DiskError::io("move", &source.path);
    let found = open_at(&source.dir, &source.name, OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(failed())?;
    let stat = fstat(&found).map_err(failed())?;
    if kind(&stat) != SFlag::S_IFREG {
        return Err(DiskError::not_regular(&source.path, stat.st_mode));
    }
    let mut file = reopen(&found, OFlag::O_RDONLY).map_err(failed())?;
    let mut draft = Draft::begin(actor, to, Attributes::default())?;
    draft.set_mode(stat.st_mode);
    loop {
        asking.check()?;
        let mut chunk = Vec::with_capacity(FILE_CHUNK_BYTES);
        let read = (&mut file).take(FILE_CHUNK_BYTES as u64).read_to_end(&mut chunk);
        if read.map_err(DiskError::std("read", &source.path))? == 0 {
            break;
        }
        draft.write(&[Bytes::from(chunk)])?;
    }
    draft.commit()?;
    unlinkat(&source.dir, source.name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(failed())
}
