//! A file being written, not yet under its name. It takes the name in one step when it is whole; until then whoever
//! opens the name gets the old file, and if the draft is given up, or envd is killed, nothing of it is left.
//!
//! ```text
//! begin --write*--> commit      the name now leads to the new file
//!                \-> drop       the old file stays; the draft is gone
//! ```
//!
//! A draft has no name at all where the file system can do that (ext4, XFS, btrfs, tmpfs), so even `kill -9` leaves
//! nothing behind. It gets one for the instant between being linked and renamed. Elsewhere it has a hidden name from the
//! start, and a kill leaves that file.
//!
//! It is a new file, so hard links to the old one keep the old content, and the owner is who wrote it. Permission bits
//! are the old file's (without set-id bits, as any write would clear them). Data is not forced to disk before the name
//! is taken: ext4 writes a file out before a rename over another one lets the old one go, a sandbox that loses power is
//! gone anyway, and `POST /snapshot/prepare` syncs before a disk is captured. A sync would cost each small upload a
//! device flush.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::actor::Actor;
use super::error::{DiskError, shown};
use super::place::{Parents, Place, descriptor, open_at};

/// Permission bits of a new file.
const FILE_MODE: u32 = 0o644;
/// Links followed from one name: the kernel's own bound.
const LINKS_MAX: u32 = 40;
/// Names tried; the first is as good as certain to be free.
const NAMES_MAX: u32 = 8;

/// See the module.
#[derive(Debug)]
pub struct Draft {
    file: File,
    place: Place,
    mode: u32,
    replaces: Replaces,
    /// The hidden name it has, if it has one.
    name: Option<String>,
    actor: Arc<Actor>,
}

/// Whether a draft takes the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaces {
    Nothing,
    File,
}

/// Hidden names, known to watchers so that they can tell an upload from a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftName {
    /// Of a draft that will be a new file.
    New,
    /// Of a draft that will replace one.
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

impl Draft {
    /// Begins a file at `path`. Missing directories are made; a link is followed, also one that leads to no file yet.
    /// Call with the actor's rights.
    ///
    /// # Errors
    /// A directory or something that is no regular file is there, the file is not writable for the user, or nothing
    /// can be made in its directory.
    pub fn begin(actor: &Arc<Actor>, path: &Path) -> Result<Self, DiskError> {
        let (place, old_mode) = find_target(path)?;
        let replaces = if old_mode.is_some() { Replaces::File } else { Replaces::Nothing };
        let failed = || DiskError::io("write", path);
        let mode = old_mode.unwrap_or(FILE_MODE);
        let (file, name) = match nameless(&place, mode) {
            Ok(file) => (file, None),
            // What file systems and old kernels answer that know no nameless files.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
                let (file, name) = hidden(&place, replaces, mode).map_err(failed())?;
                (file, Some(name))
            }
            Err(errno) => return Err(failed()(errno)),
        };
        Ok(Self { file, place, mode, replaces, name, actor: Arc::clone(actor) })
    }

    /// Appends. Call with the actor's rights: the disk's reserve is not for everyone.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn write(&mut self, chunks: &[Bytes]) -> Result<(), DiskError> {
        let mut slices: Vec<IoSlice<'_>> =
            chunks.iter().filter(|chunk| !chunk.is_empty()).map(|chunk| IoSlice::new(chunk)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => return Err(DiskError::io("write", &self.place.path)(Errno::EIO)),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::std("write", &self.place.path)(error)),
            }
        }
        Ok(())
    }

    /// Sets the permission bits it will have.
    pub fn set_mode(&mut self, mode: u32) {
        self.mode = mode & 0o777;
    }

    /// Takes the name. Call with the actor's rights.
    ///
    /// # Errors
    /// The directory lets nobody in any more, or something that is no file took the name meanwhile. The draft is gone
    /// then, and what is under the name stays.
    pub fn commit(mut self) -> Result<(), DiskError> {
        let path = self.place.path.clone();
        let name = match self.name.clone() {
            Some(name) => name,
            None => self.link().map_err(DiskError::io("write", &path))?,
        };
        self.apply_mode(&name).map_err(DiskError::io("set the mode of", &path))?;
        match renameat(&self.place.dir, name.as_str(), &self.place.dir, self.place.name.as_os_str()) {
            Ok(()) => {
                self.name = None;
                Ok(())
            }
            Err(Errno::EISDIR) => Err(DiskError::IsDirectory(shown(&path))),
            Err(errno) => Err(DiskError::io("write", &path)(errno)),
        }
    }

    /// It was made with its mode, less what the process's mask takes. The rest is set by the hidden name, because
    /// watchers are told the name by which a mode was changed; but only after a look that it is our file.
    fn apply_mode(&self, name: &str) -> Result<(), Errno> {
        let own = fstat(&self.file)?;
        if own.st_mode & 0o777 == self.mode {
            return Ok(());
        }
        let named = open_at(&self.place.dir, name.as_ref(), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let found = fstat(&named)?;
        if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino) {
            return Err(Errno::EBUSY);
        }
        let mode = Mode::from_bits_truncate(self.mode);
        fchmodat(AT_FDCWD, &descriptor(&named), mode, FchmodatFlags::FollowSymlink)
    }

    /// Gives a nameless draft its hidden name.
    fn link(&mut self) -> Result<String, Errno> {
        let own = descriptor(&self.file);
        let name =
            try_names(self.replaces, |name| linkat(AT_FDCWD, &own, &self.place.dir, name, AtFlags::AT_SYMLINK_FOLLOW))?
                .1;
        self.name = Some(name.clone());
        Ok(name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let removed = self.actor.act(|| {
            unlinkat(&self.place.dir, name.as_str(), UnlinkatFlags::NoRemoveDir)
                .map_err(DiskError::io("remove the draft of", &self.place.path))
        });
        if let Err(error) = removed {
            tracing::warn!(error = error.message(), "a given-up upload was left behind");
        }
    }
}

/// Follows links from `path` to where the file is or will be. Also answers the old file's permission bits.
fn find_target(path: &Path) -> Result<(Place, Option<u32>), DiskError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        if at.file_name().is_none() {
            return Err(DiskError::IsDirectory(shown(path)));
        }
        let place = Place::find(&at, Parents::Make)?;
        let stat = match place.stat() {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok((asked(place, path), None)),
            Err(errno) => return Err(DiskError::io("look at", path)(errno)),
        };
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFLNK => {
                let target = readlinkat(&place.dir, place.name.as_os_str()).map_err(DiskError::io("follow", path))?;
                at = at.parent().unwrap_or(Path::new("/")).join(clean(Path::new(&target)));
            }
            SFlag::S_IFDIR => return Err(DiskError::IsDirectory(shown(path))),
            SFlag::S_IFREG => {
                check_writable(&place).map_err(DiskError::io("write", path))?;
                return Ok((asked(place, path), Some(stat.st_mode & 0o777)));
            }
            _ => return Err(DiskError::NotRegular(shown(path))),
        }
    }
    Err(DiskError::io("follow", path)(Errno::ELOOP))
}

/// Error texts name what was asked for, not where a link led.
fn asked(place: Place, path: &Path) -> Place {
    Place { path: path.to_owned(), ..place }
}

/// A link's text without the slash at its end, which would hide its last name.
fn clean(target: &Path) -> PathBuf {
    target.components().collect()
}

/// Replacing needs only the directory; a file its owner made read-only stays so all the same.
fn check_writable(place: &Place) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match open_at(&place.dir, &place.name, flags) {
        // A program that runs cannot be written to, but it can be replaced.
        Ok(_) | Err(Errno::ETXTBSY) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn nameless(place: &Place, mode: u32) -> Result<File, Errno> {
    create(&place.dir, ".", OFlag::O_TMPFILE, mode)
}

fn hidden(place: &Place, replaces: Replaces, mode: u32) -> Result<(File, String), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    try_names(replaces, |name| create(&place.dir, name, flags, mode))
}

fn create(dir: &OwnedFd, name: &str, flags: OFlag, mode: u32) -> Result<File, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(dir, name, how).map(File::from)
}

/// Tries random names until one is free.
fn try_names<T>(replaces: Replaces, act: impl Fn(&str) -> Result<T, Errno>) -> Result<(T, String), Errno> {
    let prefix = match replaces {
        Replaces::Nothing => DraftName::NEW,
        Replaces::File => DraftName::REPLACING,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As on a file system without nameless files: none of them is at hand in a test.
    fn named_draft(path: &Path) -> Draft {
        let actor = Arc::new(Actor::root().unwrap());
        let (place, old_mode) = find_target(path).unwrap();
        let replaces = if old_mode.is_some() { Replaces::File } else { Replaces::Nothing };
        let (file, name) = hidden(&place, replaces, 0o600).unwrap();
        Draft { file, place, mode: old_mode.unwrap_or(FILE_MODE), replaces, name: Some(name), actor }
    }

    #[test]
    fn a_draft_with_a_hidden_name_takes_the_real_one_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let mut draft = named_draft(&path);
        draft.write(&[Bytes::from_static(b"ne"), Bytes::new(), Bytes::from_static(b"w")]).unwrap();
        let hidden = names(dir.path());
        assert_eq!(DraftName::of(hidden[0].as_ref()), Some(DraftName::Replacing));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        draft.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(names(dir.path()), ["file"]);

        let draft = named_draft(&dir.path().join("other"));
        assert_eq!(DraftName::of(names(dir.path())[0].as_ref()), Some(DraftName::New));
        drop(draft);
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_draft_whose_name_was_taken_by_a_directory_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let actor = Arc::new(Actor::root().unwrap());
        for nameless in [true, false] {
            let path = dir.path().join("x");
            let draft = if nameless { Draft::begin(&actor, &path).unwrap() } else { named_draft(&path) };
            std::fs::create_dir(&path).unwrap();
            assert!(matches!(draft.commit(), Err(DiskError::IsDirectory(_))));
            assert_eq!(names(dir.path()), ["x"]);
            std::fs::remove_dir(path).unwrap();
        }
    }
}
