//! Disks as raw files whose blocks are shared until they are written: XFS and btrfs. Sharing is one system call and copies nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use wrenn_linux::files;

use super::interface::{Disk, DiskKind, Disks};
use crate::storage::error::{StorageError, failed};

/// Name of the file in its directory.
const NAME: &str = "disk";

/// ReflinkDisks keeps each disk as the file `disk` of its directory.
#[derive(Debug, Default)]
pub struct ReflinkDisks;

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

fn disk(path: PathBuf, bytes: u64) -> Disk {
    Disk::new(DiskKind::Reflink, path, bytes)
}

impl Disks for ReflinkDisks {
    fn create(&self, image: &Path, dir: &Path, bytes: u64) -> Result<Disk, StorageError> {
        self.release(dir)?;
        let path = path(dir);
        files::reflink(image, &path).and_then(|file| file.set_len(bytes)).map_err(failed("make", &path))?;
        Ok(disk(path, bytes))
    }

    fn grow(&self, grown: &Disk, bytes: u64) -> Result<Disk, StorageError> {
        if bytes <= grown.bytes() {
            return Ok(grown.clone());
        }
        let file = File::options().write(true).open(grown.path()).and_then(|file| file.set_len(bytes));
        file.map_err(failed("grow", grown.path()))?;
        Ok(disk(grown.path().to_owned(), bytes))
    }

    fn capture(&self, disk: &Disk, capture_dir: &Path) -> Result<(), StorageError> {
        files::reflink(disk.path(), &path(capture_dir)).map(drop).map_err(failed("share", disk.path()))
    }

    fn sync(&self, capture_dir: &Path) -> Result<(), StorageError> {
        let path = path(capture_dir);
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))
    }

    fn start_from(&self, capture_dir: &Path, dir: &Path) -> Result<Disk, StorageError> {
        self.release(dir)?;
        let (from, to) = (path(capture_dir), path(dir));
        let bytes = files::reflink(&from, &to).and_then(|file| Ok(file.metadata()?.len()));
        Ok(disk(to, bytes.map_err(failed("share", &from))?))
    }

    fn share(&self, capture_dir: &Path, other: &Path) -> Result<(), StorageError> {
        let target = path(other);
        fs::hard_link(path(capture_dir), &target).map_err(failed("link", &target))
    }

    fn hand_over(&self, moved: &Disk, dir: &Path) -> Result<Disk, StorageError> {
        let target = path(dir);
        fs::rename(moved.path(), &target).map_err(failed("move", moved.path()))?;
        Ok(disk(target, moved.bytes()))
    }

    fn used(&self, disk: &Disk) -> Result<u64, StorageError> {
        use std::os::unix::fs::MetadataExt;
        // The kernel counts in units of 512 bytes.
        Ok(disk.path().metadata().map_err(failed("inspect", disk.path()))?.blocks() * 512)
    }

    fn adopt(&self, dir: &Path) -> Result<Option<Disk>, StorageError> {
        let path = path(dir);
        match path.metadata() {
            Ok(found) => Ok(Some(disk(path, found.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("inspect", &path)(error)),
        }
    }

    fn release(&self, dir: &Path) -> Result<(), StorageError> {
        let path = path(dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory whose file system shares blocks, on a loop device where no disk here does.
    #[tokio::test]
    async fn a_reflinked_disk_does_what_every_disk_must() {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = crate::storage::Store::open(home.path(), None).await.unwrap();
        let (work, image) = (store.root().join("contract"), store.root().join("image"));
        std::fs::create_dir(&work).unwrap();
        std::fs::write(&image, [1; 8192]).unwrap();
        let held = std::panic::catch_unwind(|| crate::storage::disks::contract::holds(&ReflinkDisks, &work, &image));
        store.close().unwrap();
        held.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
