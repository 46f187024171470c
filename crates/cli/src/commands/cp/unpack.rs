//! A capsule's tar stream, unpacked on this machine.
//!
//! It is hostile: nothing is written outside the target folder, and no device nodes, no owners, no set-id bits are made. Modes and times of
//! folders come last, so that a folder that may not be written can be filled.

use std::fs::FileTimes;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};

use super::report::Report;
use crate::output::Output;

/// Entries of one folder copy; a guest must not fill this machine's inodes without end.
const ENTRIES_MAX: u64 = 1_000_000;

/// Unpacks below `target` and reads the stream to its end: whoever writes it must not be cut off in what follows the archive.
///
/// # Errors
/// The disk is full, the stream is no archive or breaks off, or an entry points outside the folder.
pub fn unpack(from: impl Read, target: &Path, output: &Output) -> anyhow::Result<Report> {
    std::fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    // A file is its owner's alone until it has its mode.
    let before = umask(Mode::from_bits_truncate(0o077));
    let unpacked = unpack_private(from, target, output);
    umask(before);
    unpacked
}

fn unpack_private(from: impl Read, target: &Path, output: &Output) -> anyhow::Result<Report> {
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(false);
    archive.set_overwrite(true);
    let (mut report, mut folders) = (Report::default(), Vec::new());
    for (count, entry) in archive.entries().context("not a tar stream")?.enumerate() {
        if count as u64 >= ENTRIES_MAX {
            bail!("the folder has more than {ENTRIES_MAX} entries; copy parts of it");
        }
        let mut entry = entry.context("the stream broke off")?;
        let path = entry.path().context("an entry has no readable name")?.into_owned();
        if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            bail!("the capsule sent an entry that points outside the folder; nothing more was written");
        }
        let kind = entry.header().entry_type();
        let result = if kind.is_dir() {
            folders.push(Folder::of(&entry, target.join(&path)));
            make_folder(target, &path)
        } else if kind.is_file() || kind.is_symlink() || kind.is_hard_link() {
            // `unpack_in` also refuses entries below a symlink that leaves the folder.
            entry.unpack_in(target).and_then(|inside| if inside { Ok(()) } else { Err(outside()) })
        } else {
            report.note(output, &format!("{} is a device or named pipe and was left out", path.display()));
            Ok(())
        };
        match result {
            Ok(()) => report.bytes += if kind.is_file() { entry.size() } else { 0 },
            Err(error) if is_outside(&error) => {
                bail!("the capsule sent an entry that points outside the folder; nothing more was written")
            }
            Err(error) if is_fatal(&error) => {
                return Err(error).with_context(|| format!("cannot write {}", path.display()));
            }
            Err(error) => report.fail(output, &format!("{}: {}", path.display(), root_cause(&error))),
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).context("the stream broke off")?;
    // The innermost first: a folder that may not be entered hides what is in it.
    for folder in folders.iter().rev() {
        if let Err(error) = folder.finish() {
            report.fail(output, &format!("{}: {error}", folder.path.display()));
        }
    }
    Ok(report)
}

/// Mode and time a folder gets when all is in it.
struct Folder {
    path: PathBuf,
    mode: u32,
    modified: Option<SystemTime>,
}

impl Folder {
    fn of(entry: &tar::Entry<'_, impl Read>, path: PathBuf) -> Self {
        let header = entry.header();
        let modified =
            header.mtime().ok().and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        Self { path, mode: header.mode().unwrap_or(0o700) & 0o777, modified }
    }

    fn finish(&self) -> io::Result<()> {
        // Not through a link that a later entry put in its place.
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let dir = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        if let Some(modified) = self.modified {
            dir.set_times(FileTimes::new().set_modified(modified))?;
        }
        dir.set_permissions(std::fs::Permissions::from_mode(self.mode))
    }
}

/// Makes a folder that may be filled. What is there already stays, if it is a folder and no link.
fn make_folder(target: &Path, path: &Path) -> io::Result<()> {
    let full = target.join(path);
    // Its parents must be folders of this copy, not links that lead out of it.
    let (root, parent) = (target.canonicalize()?, full.parent().unwrap_or(target).canonicalize());
    if full != *target && !parent.as_ref().is_ok_and(|parent| parent.starts_with(&root)) && path != Path::new(".") {
        return match parent {
            Ok(_) => Err(outside()),
            Err(error) => Err(error),
        };
    }
    match std::fs::DirBuilder::new().mode(0o700).create(&full) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(&full)?;
            if !meta.is_dir() {
                return Err(error);
            }
            std::fs::set_permissions(&full, std::fs::Permissions::from_mode(meta.permissions().mode() | 0o700))
        }
        other => other,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("points outside the folder")]
struct Outside;

fn outside() -> io::Error {
    io::Error::other(Outside)
}

/// Also the archive library's own refusal, which it tells only in words.
fn is_outside(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Outside>()) || error.to_string().contains("outside")
}

/// Whether no later entry would fare better.
fn is_fatal(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull, UnexpectedEof};
    let kind = innermost(error).map_or(error.kind(), io::Error::kind);
    matches!(kind, StorageFull | QuotaExceeded | ReadOnlyFilesystem | UnexpectedEof)
        || matches!(error.kind(), StorageFull | QuotaExceeded | UnexpectedEof)
}

fn innermost(error: &io::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    let mut found = None;
    while let Some(next) = cause {
        if let Some(io) = next.downcast_ref::<io::Error>() {
            found = Some(io);
        }
        cause = next.source();
    }
    found
}

fn root_cause(error: &io::Error) -> String {
    innermost(error).unwrap_or(error).to_string()
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
