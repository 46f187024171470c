//! Where a file is to be written: links are followed to their end, and what is there decides how.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::SFlag;

use super::entry_path::{EntryPath, Parents, open_at};
use super::error::{DiskError, shown};

/// Links followed from one name: the kernel's own bound.
const LINKS_MAX: u32 = 40;

/// Finding at the path where a file is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A regular file with these permission bits, which the user may write.
    File {
        mode: u32,
    },
    /// A device or named pipe.
    Special,
}

impl Found {
    pub(super) fn mode(self) -> Option<u32> {
        match self {
            Self::File { mode } => Some(mode),
            Self::Nothing | Self::Special => None,
        }
    }
}

/// Follows links from `path` to where the file is or will be.
pub(super) fn find_target(path: &Path) -> Result<(EntryPath, Found), DiskError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        if at.file_name().is_none() {
            return Err(DiskError::IsDirectory(shown(path)));
        }
        let entry_path = EntryPath::find(&at, Parents::Make)?;
        let stat = match entry_path.stat() {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok((asked(entry_path, path), Found::Nothing)),
            Err(errno) => return Err(DiskError::io("look at", path)(errno)),
        };
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFLNK => {
                let target =
                    readlinkat(&entry_path.dir, entry_path.name.as_os_str()).map_err(DiskError::io("follow", path))?;
                at = at.parent().unwrap_or(Path::new("/")).join(clean(Path::new(&target)));
            }
            SFlag::S_IFDIR => return Err(DiskError::IsDirectory(shown(path))),
            SFlag::S_IFREG => {
                check_writable(&entry_path).map_err(DiskError::io("write", path))?;
                return Ok((asked(entry_path, path), Found::File { mode: stat.st_mode & 0o777 }));
            }
            SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO => return Ok((asked(entry_path, path), Found::Special)),
            _ => return Err(DiskError::not_regular(path, stat.st_mode)),
        }
    }
    Err(DiskError::io("follow", path)(Errno::ELOOP))
}

/// Error texts name what was asked for, not where a link led.
fn asked(entry_path: EntryPath, path: &Path) -> EntryPath {
    EntryPath { path: path.to_owned(), ..entry_path }
}

/// A link's text without the slash at its end, which would hide its last name.
fn clean(target: &Path) -> PathBuf {
    target.components().collect()
}

/// Replacing needs only the directory; a file its owner made read-only stays so all the same.
fn check_writable(entry_path: &EntryPath) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match open_at(&entry_path.dir, &entry_path.name, flags) {
        // A program that runs cannot be written to, but it can be replaced.
        Ok(_) | Err(Errno::ETXTBSY) => Ok(()),
        Err(errno) => Err(errno),
    }
}
