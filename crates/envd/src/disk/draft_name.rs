//! Files of drafts: without a name where the file system can do that, else under a hidden one.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::entry_path::{EntryPath, create_at};

/// Names tried; the first is as good as certain to be free.
const NAMES_MAX: u32 = 8;

/// Whether a draft takes the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaces {
    Nothing,
    File,
    /// Never: it is copied into what is there.
    Never,
}

/// Hidden names, known to watchers so that they can tell an upload from a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftName {
    /// Name of a draft that will be a new file.
    New,
    /// Name of a draft that will replace a file.
    Replacing,
}

impl DraftName {
    const NEW: &'static str = ".wrenn-new-";
    const REPLACING: &'static str = ".wrenn-old-";

    /// Reads what kind of draft a directory entry is, if it is one.
    pub fn of(name: &std::ffi::OsStr) -> Option<Self> {
        let name = name.as_bytes();
        if name.starts_with(Self::NEW.as_bytes()) {
            return Some(Self::New);
        }
        name.starts_with(Self::REPLACING.as_bytes()).then_some(Self::Replacing)
    }
}

/// Makes the draft where its name will be, without a name if the file system can do that.
pub(super) fn beside(entry_path: &EntryPath, replaces: Replaces, mode: u32) -> Result<(File, Option<String>), Errno> {
    match nameless(entry_path, mode) {
        Ok(file) => Ok((file, None)),
        // What file systems and old kernels answer that know no nameless files.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
            hidden(entry_path, replaces, mode).map(|(file, name)| (file, Some(name)))
        }
        Err(errno) => Err(errno),
    }
}

fn nameless(entry_path: &EntryPath, mode: u32) -> Result<File, Errno> {
    create_at(&entry_path.dir, ".", OFlag::O_TMPFILE, mode)
}

pub(super) fn hidden(entry_path: &EntryPath, replaces: Replaces, mode: u32) -> Result<(File, String), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    try_names(replaces, |name| create_at(&entry_path.dir, name, flags, mode))
}

/// Tries random names until one is free.
pub(super) fn try_names<T>(replaces: Replaces, act: impl Fn(&str) -> Result<T, Errno>) -> Result<(T, String), Errno> {
    let prefix = match replaces {
        Replaces::Nothing => DraftName::NEW,
        Replaces::File | Replaces::Never => DraftName::REPLACING,
    };
    for _ in 0..NAMES_MAX {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|_| Errno::EIO)?;
        let name = format!("{prefix}{}", hex::encode(random));
        match act(&name) {
            Err(Errno::EEXIST) => {}
            other => return other.map(|done| (done, name)),
        }
    }
    Err(Errno::EEXIST)
}
