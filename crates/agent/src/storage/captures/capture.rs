//! Capture: one that counts, and what can be started from it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use wrenn_linux::files;
use wrenn_vmm::DeviceState;

use super::layout::{MANIFEST, MEMORY, file_checksum, state_dir};
use super::manifest::{Compatibility, Manifest};
use crate::storage::disks::Disk;
use crate::storage::error::{StorageError, failed};
use crate::storage::store::Store;

/// Bytes of a manifest at most; a large environment is the longest part.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of one file of device state at most; it is some 20 KB without memory.
const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of memory read before a guest asks for them, at most.
const READ_AHEAD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Capture is one that counts.
#[derive(Clone)]
pub struct Capture {
    pub(super) store: Store,
    pub(super) dir: PathBuf,
    pub manifest: Manifest,
}

impl Capture {
    /// Opens the capture at `path`: reads its manifest and compares the sizes of its files with it. Blocks.
    ///
    /// # Errors
    /// There is none, or it is torn or damaged.
    pub fn open(store: &Store, path: &Path) -> Result<Self, StorageError> {
        let file = path.join(MANIFEST);
        let odd = |why: String| failed("use the capture", path)(io::Error::new(io::ErrorKind::InvalidData, why));
        let length = file.metadata().map_err(failed("read", &file))?.len();
        if length > MANIFEST_BYTES_MAX {
            return Err(odd("its manifest is too long".into()));
        }
        let bytes = fs::read(&file).map_err(failed("read", &file))?;
        let manifest = Manifest::parse(&bytes).map_err(|error| odd(format!("its manifest: {error}")))?;
        let state = state_dir(path, manifest.format);
        let state = manifest.state.iter().map(|(name, digest)| (state.join(name), digest.bytes));
        for (file, expected) in state.chain([(path.join(MEMORY), manifest.memory.bytes)]) {
            let actual = file.metadata().map_err(failed("read", &file))?.len();
            if actual != expected {
                return Err(odd(format!("{} has {actual} bytes instead of {expected}", file.display())));
            }
        }
        for expected in &manifest.disks {
            let found = store.disks_of(expected.kind).adopt(path)?.map(|disk| disk.record());
            if found != Some(*expected) {
                let actual = found.map_or("no".to_owned(), |disk| disk.bytes.to_string());
                return Err(odd(format!("its disk has {actual} bytes instead of {}", expected.bytes)));
            }
        }
        Ok(Self { store: store.clone(), dir: path.to_owned(), manifest })
    }

    /// Refuses a capture that cannot be loaded here, before anything is started. Device state is always checked; memory when it
    /// has been through the disk since it was written. Blocks, for all of memory perhaps.
    ///
    /// # Errors
    /// Another VMM or processor made it, or a checksum is wrong.
    pub fn check(&self, here: &Compatibility, boot_id: &str) -> Result<(), StorageError> {
        if let Some(why) = self.manifest.compatibility.difference_to(here) {
            return Err(StorageError::Foreign(why));
        }
        let dir = state_dir(&self.dir, self.manifest.format);
        for (name, digest) in &self.manifest.state {
            let path = dir.join(name);
            if digest.bytes > STATE_BYTES_MAX || file_checksum(&path)? != digest.checksum {
                return Err(StorageError::Damaged(path));
            }
        }
        if self.manifest.boot_id != boot_id {
            self.check_memory()?;
        }
        Ok(())
    }

    /// Compares all of memory with its checksum. Blocks.
    ///
    /// # Errors
    /// The checksum is wrong, or the file cannot be read.
    pub fn check_memory(&self) -> Result<(), StorageError> {
        let path = self.memory();
        if file_checksum(&path)? == self.manifest.memory.checksum { Ok(()) } else { Err(StorageError::Damaged(path)) }
    }

    /// Directory of the capture.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Whether the capture still has its name; one that is removed loses that first.
    pub fn is_there(&self) -> bool {
        self.dir.join(MANIFEST).exists()
    }

    /// Device state, for the driver that wrote it.
    pub fn state(&self) -> DeviceState {
        let dir = state_dir(&self.dir, self.manifest.format);
        DeviceState { dir, files: self.manifest.state.keys().cloned().collect() }
    }

    pub(super) fn memory(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }

    /// Has the kernel read what will be needed first, at most [`READ_AHEAD_BYTES_MAX`]: a guest that came to each page by itself would
    /// wait for the disk each time. Only advice: what it is based on came from the disk too, and a failure costs time. Blocks.
    pub fn read_ahead(&self) {
        let mut rest = READ_AHEAD_BYTES_MAX;
        let parts = self.manifest.used.iter().map_while(|&(position, length)| {
            let part = (rest > 0).then_some((position, length.min(rest)))?;
            rest -= part.1;
            Some(part)
        });
        if let Err(error) = File::open(self.memory()).and_then(|file| files::read_ahead(&file, parts)) {
            tracing::warn!(%error, path = %self.dir.display(), "a capture's memory is not read ahead");
        }
    }

    /// Gives the directory `dir` a memory file at `memory` and disks of its own: nothing is copied. Blocks.
    ///
    /// # Errors
    /// The capture is gone, or there is no room.
    pub fn give(&self, memory: &Path, dir: &Path) -> Result<Vec<Disk>, StorageError> {
        fs::hard_link(self.memory(), memory).map_err(failed("link", memory))?;
        let disks = self.manifest.disks.iter();
        disks.map(|disk| self.store.disks_of(disk.kind).start_from(&self.dir, dir)).collect()
    }

    /// Bytes it takes on the disk, files shared with others counted in full. Blocks.
    ///
    /// # Errors
    /// The capture is gone.
    pub fn bytes_used(&self) -> Result<u64, StorageError> {
        use std::os::unix::fs::MetadataExt;
        let state = state_dir(&self.dir, self.manifest.format);
        let state = self.manifest.state.keys().map(|name| state.join(name));
        // The kernel counts in units of 512 bytes.
        let used = |path: &Path| Ok::<u64, StorageError>(path.metadata().map_err(failed("read", path))?.blocks() * 512);
        let files = state.chain([self.memory()]).try_fold(0, |sum, path| Ok::<_, StorageError>(sum + used(&path)?))?;
        Ok(files + self.store.disk_bytes_used(&self.dir)?)
    }
}
