//! Interface of disks: the handle and what can be done with it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::disk_kind::DiskKind;
use crate::storage::error::StorageError;

/// DiskRecord is what a manifest keeps of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    pub kind: DiskKind,
    /// Bytes the guest sees.
    pub bytes: u64,
}

/// Disk is a handle on a disk that exists. Dropped, it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    kind: DiskKind,
    path: PathBuf,
    bytes: u64,
}

impl Disk {
    /// Handle on a disk of this kind at this path.
    pub fn new(kind: DiskKind, path: PathBuf, bytes: u64) -> Self {
        Self { kind, path, bytes }
    }

    /// Path of the raw file or block device, for the VMM.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Implementation the disk belongs to.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Bytes the guest sees.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Record for a manifest.
    pub fn record(&self) -> DiskRecord {
        DiskRecord { kind: self.kind, bytes: self.bytes }
    }
}

/// Disks makes, shares and removes disks of one kind. Everything here blocks: call it by way of [`crate::blocking::blocking`]. A kill in the
/// middle of any of it leaves what [`Disks::release`] removes.
pub trait Disks: Send + Sync {
    /// Makes the disk of `dir` from an image, `bytes` long, which is at least the image's length. What is there goes first.
    ///
    /// # Errors
    /// The image cannot be shared, or there is no room.
    fn create(&self, image: &Path, dir: &Path, bytes: u64) -> Result<Disk, StorageError>;

    /// Makes a disk `bytes` long; one that is longer stays as it is. Its VMM still has to be notified.
    ///
    /// # Errors
    /// There is no room.
    fn grow(&self, disk: &Disk, bytes: u64) -> Result<Disk, StorageError>;

    /// Captures a disk as it is at this instant into the directory of a capture, while its guest stands still. Not synced.
    ///
    /// # Errors
    /// There is a disk already, or no room.
    fn capture(&self, disk: &Disk, capture_dir: &Path) -> Result<(), StorageError>;

    /// Makes what [`Disks::capture`] wrote outlast a power cut.
    ///
    /// # Errors
    /// It cannot be written.
    fn sync(&self, capture_dir: &Path) -> Result<(), StorageError>;

    /// Makes the disk of `dir` from a capture's, which never changes. What is there goes first.
    ///
    /// # Errors
    /// The capture has none, or there is no room.
    fn start_from(&self, capture_dir: &Path, dir: &Path) -> Result<Disk, StorageError>;

    /// Shares a capture's disk with another capture: either can be removed without the other.
    ///
    /// # Errors
    /// The capture has none, or the other has one already.
    fn share(&self, capture_dir: &Path, other: &Path) -> Result<(), StorageError>;

    /// Hands a disk over to another directory of the store; a VMM that has it open does not notice.
    ///
    /// # Errors
    /// The disk is gone, or cannot be moved.
    fn hand_over(&self, disk: &Disk, dir: &Path) -> Result<Disk, StorageError>;

    /// Bytes a disk occupies, those it shares with others counted in full.
    ///
    /// # Errors
    /// The disk is gone.
    fn used(&self, disk: &Disk) -> Result<u64, StorageError>;

    /// Adopts the disk of a directory, a capture's too; `None` when it has none.
    ///
    /// # Errors
    /// What is there cannot be read.
    fn adopt(&self, dir: &Path) -> Result<Option<Disk>, StorageError>;

    /// Releases the disk of a directory; none is no error. Every directory that is removed is released first.
    ///
    /// # Errors
    /// It does not go.
    fn release(&self, dir: &Path) -> Result<(), StorageError>;
}
