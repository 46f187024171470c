//! A folder of this machine as a tar stream. An entry is as long as its header says, whatever happens to the file meanwhile: it is cut or
//! filled with zeros, and named; what cannot be read or sent is named and left out.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::report::Report;
use crate::output::Output;

/// Bytes collected before they are passed on.
const CHUNK: usize = 64 * 1024;
/// Folders in folders: each takes some of the packer's stack.
const DEPTH_MAX: usize = 512;

/// How far a packer came, readable while it waits for the other end.
#[derive(Default)]
pub struct Progress(Mutex<(Report, bool)>);

impl Progress {
    /// Whether every entry and the archive's end were handed on.
    pub fn is_complete(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// The report of everything that was packed.
    pub fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn complete(&self, report: Report) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (report, true);
    }
}

/// Last part of a path as it was typed; of `.` and the like, that of the folder itself.
///
/// # Errors
/// There is none, or it is not UTF-8: the API takes nothing else.
pub fn name_of(path: &Path) -> anyhow::Result<String> {
    let full;
    let named = match path.file_name() {
        Some(name) => name,
        None => {
            full = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
            full.file_name().with_context(|| format!("{} has no name to copy under", path.display()))?
        }
    };
    let name = named
        .to_str()
        .with_context(|| format!("{} has a name that is not UTF-8; name the target: ID:FOLDER/NAME", path.display()))?;
    Ok(name.to_owned())
}

/// Permission bits of a source. Set-id bits stay here.
pub fn mode_of(meta: &Metadata) -> u32 {
    meta.mode() & 0o777
}

/// Bytes of the regular files below a folder, for a progress bar: what cannot be read counts nothing.
pub fn folder_bytes(root: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if meta.is_file() => total += meta.len(),
                _ => {}
            }
        }
    }
    total
}

/// Sends a folder's contents as a tar stream.
///
/// # Errors
/// The folder itself cannot be read, or the other end stopped reading.
pub fn pack(root: &Path, to: Sender<Bytes>, progress: &Progress, output: &Output) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(Chunks { to, buffer: Vec::with_capacity(CHUNK) });
    archive.follow_symlinks(false);
    let meta = std::fs::metadata(root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut packer = Packer { root, archive: &mut archive, report: Report::default(), output };
    packer.folder(Path::new("."), &meta, 0).context("the capsule stopped reading")?;
    let report = packer.report;
    // Only zeros follow: who has read up to here has everything.
    archive.get_mut().flush().context("the capsule stopped reading")?;
    progress.complete(report);
    let mut chunks = archive.into_inner().context("the capsule stopped reading")?;
    chunks.flush().context("the capsule stopped reading")
}

struct Packer<'a> {
    root: &'a Path,
    archive: &'a mut tar::Builder<Chunks>,
    report: Report,
    output: &'a Output,
}

impl Packer<'_> {
    /// Adds a folder and what is in it. Only the other end's failures end it.
    fn folder(&mut self, path: &Path, meta: &Metadata, depth: usize) -> io::Result<()> {
        let mut header = header(meta, tar::EntryType::Directory, 0);
        self.append(&mut header, path, io::empty())?;
        let full = self.root.join(path);
        let names = std::fs::read_dir(&full).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let mut names = match names {
            Ok(names) if depth < DEPTH_MAX => names,
            Ok(_) => return self.failed(path, "is too deep"),
            Err(error) => return self.failed(path, &error.to_string()),
        };
        names.sort_unstable();
        names.into_iter().try_for_each(|name| self.entry(&path.join(name), depth))
    }

    fn entry(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let full = self.root.join(path);
        let meta = match std::fs::symlink_metadata(&full) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.report.note(self.output, &format!("{} vanished before it was copied", full.display()));
                return Ok(());
            }
            Err(error) => return self.failed(path, &error.to_string()),
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            self.folder(path, &meta, depth + 1)
        } else if kind.is_file() {
            self.file(path, &full)
        } else if kind.is_symlink() {
            match std::fs::read_link(&full) {
                Ok(target) => self.archive.append_link(&mut header(&meta, tar::EntryType::Symlink, 0), path, target),
                Err(error) => self.failed(path, &error.to_string()),
            }
        } else {
            let word = match () {
                () if kind.is_socket() => "a socket",
                () if kind.is_fifo() => "a named pipe",
                () => "a device",
            };
            self.report.note(self.output, &format!("{} is {word} and was left out", full.display()));
            Ok(())
        }
    }

    fn file(&mut self, path: &Path, full: &Path) -> io::Result<()> {
        let (file, meta) = match open(full).and_then(|file| file.metadata().map(|meta| (file, meta))) {
            Ok((file, meta)) if meta.is_file() => (file, meta),
            Ok(_) => return self.failed(path, "is no file any more"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.report.note(self.output, &format!("{} vanished before it was copied", full.display()));
                return Ok(());
            }
            Err(error) => return self.failed(path, &error.to_string()),
        };
        let mut exactly = Exactly { file, left: meta.len(), missing: 0, error: None };
        self.append(&mut header(&meta, tar::EntryType::Regular, meta.len()), path, &mut exactly)?;
        self.report.bytes += meta.len() - exactly.missing;
        if let Some(error) = exactly.error {
            self.report.fail(self.output, &format!("{}: {error}; the rest was filled with zeros", full.display()));
        } else if exactly.missing > 0 {
            let text = format!("{} became shorter while it was copied; filled with zeros", full.display());
            self.report.note(self.output, &text);
        } else if exactly.file.metadata().is_ok_and(|now| now.len() > meta.len()) {
            let text = format!("{} grew while it was copied; its beginning was copied", full.display());
            self.report.note(self.output, &text);
        }
        Ok(())
    }

    fn append(&mut self, header: &mut tar::Header, path: &Path, data: impl Read) -> io::Result<()> {
        self.archive.append_data(header, path, data)
    }

    fn failed(&mut self, path: &Path, why: &str) -> io::Result<()> {
        let full: PathBuf = self.root.join(path);
        self.report.fail(self.output, &format!("{}: {why}", full.display()));
        Ok(())
    }
}

fn header(meta: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode_of(meta));
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(size);
    header
}

/// Opens a file to read. What has become a link or a pipe meanwhile is not followed or waited for.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW | nix::libc::O_NOCTTY;
    File::options().read(true).custom_flags(flags).open(path)
}

/// Exactly as many bytes as were promised: a file that grew is cut, one that shrank or cannot be read is filled with zeros.
struct Exactly {
    file: File,
    left: u64,
    missing: u64,
    error: Option<io::Error>,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = match (self.missing, &self.error) {
            (0, None) => match self.file.read(&mut buffer[..want]) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    self.error = Some(error);
                    0
                }
            },
            _ => 0,
        };
        let count = if got > 0 {
            got
        } else {
            buffer[..want].fill(0);
            self.missing += want as u64;
            want
        };
        self.left -= count as u64;
        Ok(count)
    }
}

/// Collects small writes and passes them on, waiting while the other end is busy.
struct Chunks {
    to: Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.to.blocking_send(full.into()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
