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
//! Where the user may write the file but not replace it (its directory is not theirs, or is sticky; it is a mount of its own; it
//! is made up by the kernel, as in /proc), the draft is collected elsewhere and copied into the file when it is whole
//! ([`super::overwrite`]). So are devices and named pipes: what leads somewhere is written into, never replaced.
//!
//! Elsewhere it is a new file, so hard links to the old one keep the old content, and the owner is who wrote it. Permission bits
//! are the old file's (without set-id bits, as any write would clear them). Data is not forced to disk before the name
//! is taken: ext4 writes a file out before a rename over another one lets the old one go, a sandbox that loses power is
//! gone anyway, and `POST /snapshot/prepare` syncs before a disk is captured. A sync would cost each small upload a
//! device flush.

use std::fs::{File, FileTimes};
use std::io::{ErrorKind, IoSlice, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::actor::Actor;
use super::draft_name::{Replaces, beside, try_names};
use super::entry_path::{EntryPath, descriptor, open_at};
use super::error::{DiskError, shown};
use super::overwrite;
use super::write_target::{Found, find_target};

/// Permission bits of a new file.
const FILE_MODE: u32 = 0o644;

/// See the module.
#[derive(Debug)]
pub struct Draft {
    file: File,
    entry_path: EntryPath,
    mode: u32,
    modified: Option<SystemTime>,
    replaces: Replaces,
    /// The hidden name it has, if it has one.
    name: Option<String>,
    actor: Arc<Actor>,
}

/// Attributes a caller gives a file besides its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Permission bits, at most 0o777; else those of the file that was there, or 0o644.
    pub mode: Option<u32>,
    /// Time of the last change; else now.
    pub modified: Option<SystemTime>,
}

impl Draft {
    /// Begins a file at `path`. Missing directories are made; a link is followed, also one that leads to no file yet.
    /// Call with the actor's rights.
    ///
    /// # Errors
    /// A directory or a socket is there, the file is not writable for the user, or nothing can be made in its directory.
    pub fn begin(actor: &Arc<Actor>, path: &Path, attributes: Attributes) -> Result<Self, DiskError> {
        let (entry_path, found) = find_target(path)?;
        let failed = || DiskError::io("write", path);
        let Attributes { mode, modified } = attributes;
        let mode = mode.unwrap_or(found.mode().unwrap_or(FILE_MODE)) & 0o777;
        let replaces = match found {
            Found::Nothing => Replaces::Nothing,
            Found::File { .. } => Replaces::File,
            Found::Special => Replaces::Never,
        };
        let made = match replaces {
            Replaces::Nothing | Replaces::File => beside(&entry_path, replaces, mode),
            Replaces::Never => Err(Errno::EINVAL),
        };
        let (file, name, replaces) = match made {
            Ok((file, name)) => (file, name, replaces),
            Err(errno) if replaces == Replaces::Nothing => return Err(failed()(errno)),
            // What is there may be written, as was found out above; its directory may not.
            Err(_) => (overwrite::collect().map_err(failed())?, None, Replaces::Never),
        };
        Ok(Self { file, entry_path, mode, modified, replaces, name, actor: Arc::clone(actor) })
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
                Ok(0) => return Err(DiskError::io("write", &self.entry_path.path)(Errno::EIO)),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::std("write", &self.entry_path.path)(error)),
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
        let path = self.entry_path.path.clone();
        if self.replaces == Replaces::Never {
            return overwrite::copy(&self.file, &self.entry_path);
        }
        if let Some(modified) = self.modified {
            let times = FileTimes::new().set_modified(modified);
            self.file.set_times(times).map_err(DiskError::std("set the time of", &path))?;
        }
        match self.take_name() {
            Ok(()) => Ok(()),
            Err(Errno::EISDIR) => Err(DiskError::IsDirectory(shown(&path))),
            // A sticky directory, a mount on the file itself, or a directory that changed: the file may still be written.
            Err(Errno::EPERM | Errno::EACCES | Errno::EBUSY | Errno::EROFS | Errno::EXDEV)
                if self.replaces == Replaces::File =>
            {
                overwrite::copy(&self.file, &self.entry_path)
            }
            Err(errno) => Err(DiskError::io("write", &path)(errno)),
        }
    }

    fn take_name(&mut self) -> Result<(), Errno> {
        let name = match self.name.clone() {
            Some(name) => name,
            None => self.link()?,
        };
        self.apply_mode(&name)?;
        renameat(&self.entry_path.dir, name.as_str(), &self.entry_path.dir, self.entry_path.name.as_os_str())?;
        self.name = None;
        Ok(())
    }

    /// Sets the bits that the process's mask took when the draft was made. They are set by the hidden name, because
    /// watchers are told the name by which a mode was changed; but only after a look that it is our file.
    fn apply_mode(&self, name: &str) -> Result<(), Errno> {
        let own = fstat(&self.file)?;
        if own.st_mode & 0o777 == self.mode {
            return Ok(());
        }
        let named = open_at(&self.entry_path.dir, name.as_ref(), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
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
        let name = try_names(self.replaces, |name| {
            linkat(AT_FDCWD, &own, &self.entry_path.dir, name, AtFlags::AT_SYMLINK_FOLLOW)
        })?
        .1;
        self.name = Some(name.clone());
        Ok(name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let removed = self.actor.act(|| {
            unlinkat(&self.entry_path.dir, name.as_str(), UnlinkatFlags::NoRemoveDir)
                .map_err(DiskError::io("remove the draft of", &self.entry_path.path))
        });
        if let Err(error) = removed {
            tracing::warn!(error = error.message(), "a given-up upload was left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft_name::{DraftName, hidden};
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
        let (entry_path, found) = find_target(path).unwrap();
        let replaces = if found == Found::Nothing { Replaces::Nothing } else { Replaces::File };
        let (file, name) = hidden(&entry_path, replaces, 0o600).unwrap();
        let mode = found.mode().unwrap_or(FILE_MODE);
        Draft { file, entry_path, mode, modified: None, replaces, name: Some(name), actor }
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
            let draft =
                if nameless { Draft::begin(&actor, &path, Attributes::default()).unwrap() } else { named_draft(&path) };
            std::fs::create_dir(&path).unwrap();
            assert!(matches!(draft.commit(), Err(DiskError::IsDirectory(_))));
            assert_eq!(names(dir.path()), ["x"]);
            std::fs::remove_dir(path).unwrap();
        }
    }
}
