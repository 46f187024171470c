//! Listing a directory: sorted, some levels deep, within bounds, never through a link.

use std::ffi::OsString;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use wrenn_contract::proto::filesystem::{EntryInfo, FileType};
use wrenn_domain::limits::{LIST_DEPTH_MAX, LIST_ENTRIES_MAX, LIST_TEXT_BYTES_MAX};
use wrenn_linux::users::Names;

use super::asking::Asking;
use super::entry;
use crate::disk::{DiskError, entries, open, shown};

/// Entries below `path`, each directory before what is in it, as long as somebody is `asking`. A link to a directory
/// is followed for `path` itself alone, and its entries are named below `path`.
///
/// # Errors
/// No directory there, or it may not be read, or it holds too much for one answer.
pub fn list(path: &Path, depth: u32, asking: &Asking) -> Result<Vec<EntryInfo>, DiskError> {
    let depth = depth.max(1);
    if depth > LIST_DEPTH_MAX {
        return Err(DiskError::Invalid(format!("depth must be at most {LIST_DEPTH_MAX}")));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
    let dir = match open(path, flags).and_then(Dir::from_fd) {
        Err(Errno::ENOTDIR) => return Err(DiskError::NotDirectory(shown(path))),
        other => other.map_err(DiskError::io("list", path))?,
    };
    let mut listing = Listing { top: path, found: Vec::new(), text: 0, names: Names::load(), asking };
    listing.add(dir, path, depth)?;
    Ok(listing.found)
}

struct Listing<'a> {
    top: &'a Path,
    found: Vec<EntryInfo>,
    /// Bytes of text in `found`.
    text: usize,
    names: Names,
    asking: &'a Asking,
}

impl Listing<'_> {
    /// Adds what is in `dir`. Calls itself at most [`LIST_DEPTH_MAX`] times over.
    fn add(&mut self, mut dir: Dir, path: &Path, depth: u32) -> Result<(), DiskError> {
        for name in self.sorted(&mut dir, path)? {
            self.asking.check()?;
            let child = path.join(&name);
            let entry = match entry::describe(&dir, &name, &child, &self.names) {
                Ok(entry) => entry,
                // Gone since its name was read.
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(DiskError::io("look at", &child)(errno)),
            };
            let is_dir = entry.r#type.as_known() == Some(FileType::Directory) && entry.symlink_target.is_none();
            self.text += entry.path.len() + entry.name.len() + entry.symlink_target.as_deref().map_or(0, str::len);
            self.found.push(entry);
            if self.text > LIST_TEXT_BYTES_MAX {
                return Err(self.too_many("bytes of names", LIST_TEXT_BYTES_MAX));
            }
            if !is_dir || depth == 1 {
                continue;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match Dir::openat(&dir, name.as_os_str(), flags, Mode::empty()) {
                Ok(below) => self.add(below, &child, depth - 1)?,
                // One directory nobody may look into, or one that is gone, does not spoil the rest.
                Err(Errno::EACCES | Errno::EPERM | Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(DiskError::io("list", &child)(errno)),
            }
        }
        Ok(())
    }

    fn sorted(&self, dir: &mut Dir, path: &Path) -> Result<Vec<OsString>, DiskError> {
        let mut names = Vec::new();
        for entry in entries(dir) {
            let (name, _) = entry.map_err(DiskError::io("list", path))?;
            names.push(name);
            if self.found.len() + names.len() > LIST_ENTRIES_MAX {
                return Err(self.too_many("entries", LIST_ENTRIES_MAX));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn too_many(&self, what: &'static str, max: usize) -> DiskError {
        DiskError::TooMany { path: shown(self.top), what, max }
    }
}
