//! Names in open directories, and opening things by path.
//!
//! Links are followed as the kernel follows them, but for the magic ones in /proc: `/proc/self/fd/7` would be envd's
//! own open file, reached past every directory above it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlink};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};

use super::error::{DiskError, shown};

/// Mode of directories made on the way to a file.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// A name in an open directory. The directory stays the same whatever happens to its path.
#[derive(Debug)]
pub struct EntryPath {
    pub dir: OwnedFd,
    pub name: OsString,
    /// As it was asked for.
    pub path: PathBuf,
}

/// Treatment of directories that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    MustExist,
    Make,
}

impl EntryPath {
    /// Opens the directory `path` is in.
    ///
    /// # Errors
    /// The path ends in nothing that has a name (`/`, `..`), or its directory cannot be reached or made.
    pub fn find(path: &Path, parents: Parents) -> Result<Self, DiskError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(DiskError::Invalid(format!("{} does not end in a name", shown(path))));
        };
        let dir = match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) if parents == Parents::Make => make_all(parent)?,
            other => other.map_err(DiskError::io("reach", path))?,
        };
        Ok(Self { dir, name: name.to_owned(), path: path.to_owned() })
    }

    /// Reads what is there, a link being a link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stat(&self) -> Result<FileStat, Errno> {
        fstatat(&self.dir, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Makes a directory here.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when anything is there.
    pub fn make_dir(&self) -> Result<(), Errno> {
        mkdirat(&self.dir, self.name.as_os_str(), DIRECTORY_MODE)
    }
}

/// Opens by path.
///
/// # Errors
/// The kernel's; `ELOOP` for the magic links of /proc.
pub fn open(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    open_at(AT_FDCWD, path.as_os_str(), flags)
}

/// Opens by a name or path below an open directory.
///
/// # Errors
/// The kernel's; `ELOOP` for the magic links of /proc.
pub fn open_at(dir: impl AsFd, path: &OsStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    openat2(dir, path, how(flags, ResolveFlag::RESOLVE_NO_MAGICLINKS))
}

/// Makes a file with this mode (less the umask), to be read and written, in an open directory; without a name when `flags` has `O_TMPFILE`.
///
/// # Errors
/// The kernel's.
pub fn create_at(dir: impl AsFd, name: &str, flags: OFlag, mode: u32) -> Result<File, Errno> {
    let how = how(flags | OFlag::O_RDWR, ResolveFlag::RESOLVE_NO_MAGICLINKS).mode(Mode::from_bits_truncate(mode));
    openat2(dir, name, how).map(File::from)
}

/// Opens by a path that holds no link at all, as [`canonical`] gives it.
///
/// # Errors
/// The kernel's; `ELOOP` when a part of it has become a link.
pub fn open_without_links(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    openat2(AT_FDCWD, path, how(flags, ResolveFlag::RESOLVE_NO_SYMLINKS))
}

fn how(flags: OFlag, resolve: ResolveFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)
}

/// Opens again, for reading say, what was opened only to look at. Permissions are checked now.
///
/// # Errors
/// The kernel's.
pub fn reopen(fd: &OwnedFd, flags: OFlag) -> Result<File, Errno> {
    nix::fcntl::open(&descriptor(fd), flags | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
}

/// Where an open file really is: absolute and free of links.
///
/// # Errors
/// /proc is not there.
pub fn canonical(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    readlink(&descriptor(fd)).map(PathBuf::from)
}

/// The name by which system calls that want a path take an open file.
pub(super) fn descriptor(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Names in a directory but `.` and `..`, with their kinds where the file system tells them.
pub fn entries(dir: &mut Dir) -> impl Iterator<Item = Result<(OsString, Option<Type>), Errno>> + '_ {
    dir.iter().filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => Some(Ok((OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(), entry.file_type()))),
        Err(errno) => Some(Err(errno)),
    })
}

/// Makes every missing directory of a path, as the acting user, and opens the last.
fn make_all(path: &Path) -> Result<OwnedFd, DiskError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut walked = PathBuf::from("/");
    let mut dir = open(&walked, flags).map_err(DiskError::io("open", &walked))?;
    for part in path.components().filter(|part| !matches!(part, Component::RootDir)) {
        let name = part.as_os_str();
        walked.push(name);
        dir = match open_at(&dir, name, flags) {
            Err(Errno::ENOENT) => {
                match mkdirat(&dir, name, DIRECTORY_MODE) {
                    // Somebody else was quicker, or a link leads nowhere: opening it tells.
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(DiskError::io("make directory", &walked)(errno)),
                }
                open_at(&dir, name, flags)
            }
            other => other,
        }
        .map_err(DiskError::io("reach", &walked))?;
    }
    Ok(dir)
}
