//! Disks as plain copies: for tests on file systems that share no blocks, and as the second thing the interface must fit.

use std::fs::{self, File};
use std::path::Path;

use super::interface::{Disk, DiskKind, Disks};
use super::reflink::ReflinkDisks;
use crate::storage::error::{StorageError, failed};

/// CopiedDisks copies where [`ReflinkDisks`] shares.
pub struct CopiedDisks;

fn copy(from: &Path, to: &Path) -> Result<u64, StorageError> {
    let mut target = File::create_new(to).map_err(failed("make", to))?;
    File::open(from).and_then(|mut from| std::io::copy(&mut from, &mut target)).map_err(failed("copy", from))
}

impl Disks for CopiedDisks {
    fn create(&self, image: &Path, dir: &Path, bytes: u64) -> Result<Disk, StorageError> {
        self.release(dir)?;
        let path = dir.join("disk");
        let copied = copy(image, &path)?;
        self.grow(&Disk::new(DiskKind::Reflink, path, copied), bytes)
    }

    fn grow(&self, disk: &Disk, bytes: u64) -> Result<Disk, StorageError> {
        ReflinkDisks.grow(disk, bytes)
    }

    fn capture(&self, disk: &Disk, capture_dir: &Path) -> Result<(), StorageError> {
        copy(disk.path(), &capture_dir.join("disk")).map(drop)
    }

    fn sync(&self, capture_dir: &Path) -> Result<(), StorageError> {
        ReflinkDisks.sync(capture_dir)
    }

    fn start_from(&self, capture_dir: &Path, dir: &Path) -> Result<Disk, StorageError> {
        self.release(dir)?;
        let path = dir.join("disk");
        let bytes = copy(&capture_dir.join("disk"), &path).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(Disk::new(DiskKind::Reflink, path, bytes))
    }

    fn share(&self, capture_dir: &Path, other: &Path) -> Result<(), StorageError> {
        copy(&capture_dir.join("disk"), &other.join("disk")).map(drop)
    }

    fn hand_over(&self, disk: &Disk, dir: &Path) -> Result<Disk, StorageError> {
        ReflinkDisks.hand_over(disk, dir)
    }

    fn used(&self, disk: &Disk) -> Result<u64, StorageError> {
        ReflinkDisks.used(disk)
    }

    fn adopt(&self, dir: &Path) -> Result<Option<Disk>, StorageError> {
        ReflinkDisks.adopt(dir)
    }

    fn release(&self, dir: &Path) -> Result<(), StorageError> {
        ReflinkDisks.release(dir)
    }
}

#[test]
fn a_copied_disk_does_what_every_disk_must() {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join("image");
    std::fs::write(&image, [1; 8192]).unwrap();
    super::contract::holds(&CopiedDisks, home.path(), &image);
}
