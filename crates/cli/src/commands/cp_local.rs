//! This machine's side of `wrenn cp`: packing folders, unpacking what a capsule sent, half-written files.
//!
//! What a capsule sends is hostile: nothing is written outside the target folder, and no device nodes, no owners, no
//! set-id bits are made.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;

/// Entries of one folder copy; a guest must not fill this machine's inodes without end.
const ENTRIES_MAX: u64 = 1_000_000;
/// Bytes collected before they are passed on.
const CHUNK: usize = 64 * 1024;

/// Last component of a path, as text.
pub fn last_name(path: &Path) -> anyhow::Result<String> {
    let full = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    let name = full.file_name().with_context(|| format!("{} has no name to copy under", path.display()))?;
    name.to_str().map(str::to_owned).with_context(|| format!("{} has a name that is not UTF-8", path.display()))
}

/// Bytes of all regular files below a folder.
pub fn folder_bytes(root: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
            let meta = entry.metadata().with_context(|| format!("cannot read {}", entry.path().display()))?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.is_file() {
                total += meta.len();
            }
        }
    }
    Ok(total)
}

/// Sends a folder's contents as a tar stream; returns the bytes of its files.
pub fn pack(root: &Path, to: tokio::sync::mpsc::Sender<Bytes>) -> anyhow::Result<u64> {
    let total = folder_bytes(root)?;
    let mut archive = tar::Builder::new(Chunks { to, buffer: Vec::with_capacity(CHUNK) });
    archive.follow_symlinks(false);
    archive.append_dir_all(".", root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut chunks = archive.into_inner().context("cannot finish the archive")?;
    chunks.flush().context("the capsule stopped reading")?;
    Ok(total)
}

/// Collects small writes and passes them on, waiting while the other end is busy.
struct Chunks {
    to: tokio::sync::mpsc::Sender<Bytes>,
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

/// Unpacks a capsule's tar stream below `target`; returns the bytes of its files.
pub fn unpack(from: impl Read, target: &Path) -> anyhow::Result<u64> {
    std::fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(false);
    archive.set_overwrite(true);
    let mut bytes = 0;
    for (count, entry) in archive.entries().context("not a tar stream")?.enumerate() {
        if count as u64 >= ENTRIES_MAX {
            bail!("the folder has more than {ENTRIES_MAX} entries; copy parts of it");
        }
        let mut entry = entry.context("the stream broke off")?;
        let path = entry.path().context("an entry has no readable name")?.into_owned();
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            continue;
        }
        if path.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            bail!("the capsule sent an entry that points outside the folder; nothing more was written");
        }
        bytes += entry.size();
        // `unpack_in` also refuses entries below a symlink that leaves the folder.
        let inside = entry.unpack_in(target).with_context(|| format!("cannot write {}", path.display()))?;
        if !inside {
            bail!("the capsule sent an entry that points outside the folder; nothing more was written");
        }
    }
    Ok(bytes)
}

/// A download in the making: beside its target under a hidden name, renamed when complete, removed when not.
pub struct Partial {
    partial: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Partial {
    /// Picks the hidden name; the folder must exist.
    pub fn create(target: &Path) -> anyhow::Result<Self> {
        let name = target
            .file_name()
            .and_then(|n| n.to_str())
            .with_context(|| format!("{} is no file name", target.display()))?;
        let partial = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
        Ok(Self { partial, target: target.to_owned(), done: false })
    }

    /// Opens it for writing; fails when something is there already.
    pub async fn open(&self) -> anyhow::Result<tokio::fs::File> {
        tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.partial)
            .await
            .with_context(|| format!("cannot write {}", self.target.display()))
    }

    /// Gives it its real name.
    pub fn commit(mut self) -> anyhow::Result<()> {
        std::fs::rename(&self.partial, &self.target)
            .with_context(|| format!("cannot write {}", self.target.display()))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn entry(
        builder: &mut tar::Builder<Vec<u8>>,
        raw_name: &str,
        kind: tar::EntryType,
        link: Option<&str>,
        data: &[u8],
    ) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        if let Some(link) = link {
            header.set_link_name_literal(link).unwrap();
        }
        // Written by hand: the library itself refuses to build hostile names.
        let name = &mut header.as_old_mut().name;
        name[..raw_name.len()].copy_from_slice(raw_name.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    #[test]
    fn a_hostile_archive_writes_nothing_outside_its_folder() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        for (name, bytes) in [
            ("climb", archive(|b| entry(b, "../outside/x", tar::EntryType::Regular, None, b"1"))),
            ("absolute", archive(|b| entry(b, "/outside-abs-x", tar::EntryType::Regular, None, b"1"))),
            (
                "through a link",
                archive(|b| {
                    entry(b, "l", tar::EntryType::Symlink, Some("../outside"), b"");
                    entry(b, "l/x", tar::EntryType::Regular, None, b"1");
                }),
            ),
        ] {
            let target = home.path().join("target").join(name);
            assert!(unpack(bytes.as_slice(), &target).is_err(), "{name} was unpacked");
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name} wrote outside");
        }
        assert!(!Path::new("/outside-abs-x").exists());
    }

    #[test]
    fn a_folder_survives_packing_and_unpacking() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        std::fs::create_dir_all(from.join("deep/er")).unwrap();
        std::fs::write(from.join("deep/er/file"), vec![7u8; 200_000]).unwrap();
        std::os::unix::fs::symlink("deep/er/file", from.join("link")).unwrap();
        let (sender, mut chunks) = tokio::sync::mpsc::channel(4);
        let packer = std::thread::spawn(move || pack(&from, sender));
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(packer.join().unwrap().unwrap(), 200_000);
        let to = home.path().join("to");
        unpack(bytes.as_slice(), &to).unwrap();
        assert_eq!(std::fs::read(to.join("link")).unwrap(), vec![7u8; 200_000]);
    }

    #[test]
    fn an_unfinished_download_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let partial = Partial::create(&home.path().join("file")).unwrap();
        std::fs::write(&partial.partial, b"half").unwrap();
        drop(partial);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
