//! Store: the directory tree in which sandboxes' files live. Its file system must share blocks between files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::HOST_DISK_RESERVE_BYTES;
use wrenn_linux::mounts::{self, Room};
use wrenn_linux::{files, loopdev};

use super::disks::{Disk, DiskKind, Disks, ReflinkDisks};
use super::error::{StorageError, failed};
use super::own_xfs;

/// Path of the file the memory of a sandbox's machine is mapped over.
pub fn memory_path(dir: &Path) -> PathBuf {
    dir.join("memory")
}

/// Store is where all files of this host's sandboxes are.
#[derive(Clone)]
pub struct Store {
    dir: PathBuf,
    root: PathBuf,
    disks: Arc<dyn Disks>,
}

impl Store {
    /// Opens the store; makes and mounts an XFS of our own where the disk cannot share blocks. A predecessor's mount is taken over.
    ///
    /// # Errors
    /// The directory cannot be written, or no file system that shares blocks can be had.
    pub async fn open(dir: &Path, bytes: Option<u64>) -> Result<Self, StorageError> {
        for name in ["kernels", "images", "sandboxes", "snapshots"] {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).map_err(failed("create", &path))?;
        }
        let root = if own_xfs::can_share(dir)? { dir.to_owned() } else { own_xfs::open(dir, bytes).await? };
        Self::with_disks(dir, &root, Arc::new(ReflinkDisks))
    }

    /// Opens the store in a tree at `root` whose disks are these.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn with_disks(dir: &Path, root: &Path, disks: Arc<dyn Disks>) -> Result<Self, StorageError> {
        for name in ["images", "sandboxes", "snapshots", "templates", "making", "quarantine"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path).map_err(failed("create", &path))?;
        }
        Ok(Self { dir: dir.to_owned(), root: root.to_owned(), disks })
    }

    /// Disks of the kind a ledger or manifest names.
    pub fn disks_of(&self, kind: DiskKind) -> &dyn Disks {
        match kind {
            DiskKind::Reflink => &*self.disks,
        }
    }

    /// Adopts the disks of a sandbox's directory, which are of these kinds, in the order in which its guest sees them. Blocks.
    ///
    /// # Errors
    /// One is not there, or cannot be read.
    pub fn adopt_disks(&self, dir: &Path, kinds: &[DiskKind]) -> Result<Vec<Disk>, StorageError> {
        let adopt =
            |kind: &DiskKind| self.disks_of(*kind).adopt(dir)?.ok_or_else(|| StorageError::NoDisk(dir.to_owned()));
        kinds.iter().map(adopt).collect()
    }

    /// Releases the disks of one directory, of whatever kind, but not those of captures in it; none is no error. Blocks.
    ///
    /// # Errors
    /// One does not go.
    pub fn release_disks(&self, dir: &Path) -> Result<(), StorageError> {
        self.disks.release(dir)
    }

    /// Bytes the disks of a sandbox's or capture's directory occupy; 0 when it has none. Blocks.
    ///
    /// # Errors
    /// A disk is there and cannot be read.
    pub fn disk_bytes_used(&self, dir: &Path) -> Result<u64, StorageError> {
        self.disks.adopt(dir)?.map_or(Ok(0), |disk| self.disks.used(&disk))
    }

    /// Removes a directory with everything in it: first its disks and those of the captures in it. None is no error. Blocks.
    ///
    /// # Errors
    /// Something in it does not go.
    pub fn remove_dir(&self, dir: &Path) -> Result<(), StorageError> {
        let inside = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        inside.filter(|path| path.is_dir()).try_for_each(|path| self.release_disks(&path))?;
        self.release_disks(dir)?;
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
            _ => Ok(()),
        }
    }

    /// Directory in which operators publish kernels and images.
    pub fn published(&self) -> &Path {
        &self.dir
    }

    /// Directory of images, sandboxes and captures.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of one sandbox.
    pub fn sandbox_dir(&self, id: SandboxId) -> PathBuf {
        self.root.join("sandboxes").join(id.to_string())
    }

    /// Directory of a snapshot; its id is 32 hex digits.
    pub fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    /// Directory of a template's memory: one per image version and size.
    pub fn template_dir(&self, name: &str) -> PathBuf {
        self.root.join("templates").join(name)
    }

    /// Directory in which templates' memories are made; everything in it is a kill's left-over at a start.
    pub fn making_dir(&self) -> PathBuf {
        self.root.join("making")
    }

    /// Room in bytes, the scarcer of the store and the disk its file lies on. Blocks.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn room(&self) -> Result<Room, StorageError> {
        let inside = mounts::room(&self.root).map_err(failed("inspect", &self.root))?;
        let beneath = mounts::room(&self.dir).map_err(failed("inspect", &self.dir))?;
        Ok(if beneath.free < inside.free { beneath } else { inside })
    }

    /// Bytes that may be used for what would be nice to have, when `wanted` more are about to be written.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn spare(&self, wanted: u64) -> Result<u64, StorageError> {
        Ok(self.room()?.free.saturating_sub(wanted.saturating_add(HOST_DISK_RESERVE_BYTES)))
    }

    /// Refuses while only the reserve is left, so that running sandboxes can still write.
    ///
    /// # Errors
    /// Only the reserve is left.
    pub fn admit(&self) -> Result<(), StorageError> {
        self.admit_bytes(0, HOST_DISK_RESERVE_BYTES)
    }

    /// Makes a sandbox's directory; one that is there is no error. It outlasts a power cut after [`Store::sync_sandbox_dirs`].
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create_sandbox_dir(&self, id: SandboxId) -> Result<PathBuf, StorageError> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = self.sandbox_dir(id);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("create", &dir))?;
        Ok(dir)
    }

    /// Makes the directories of sandboxes outlast a power cut. Blocks while the disk writes.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync_sandbox_dirs(&self) -> Result<(), StorageError> {
        let dir = self.root.join("sandboxes");
        files::sync_directory(&dir).map_err(failed("sync", &dir))
    }

    /// Makes the disk of a sandbox's directory from an image, `disk_mib` MiB large. Blocks.
    ///
    /// # Errors
    /// The image is larger, or there is no room.
    pub fn create_disk(&self, image: &Path, image_bytes: u64, dir: &Path, disk_mib: u32) -> Result<Disk, StorageError> {
        let wanted = u64::from(disk_mib) << 20;
        if wanted < image_bytes {
            return Err(StorageError::TooSmall { min_mib: image_bytes.div_ceil(1 << 20), asked_mib: disk_mib });
        }
        self.disks.create(image, dir, wanted)
    }

    /// Refuses what would leave less than `reserve` bytes free after `bytes` more are written.
    ///
    /// # Errors
    /// There is no room.
    pub fn admit_bytes(&self, bytes: u64, reserve: u64) -> Result<(), StorageError> {
        let free = self.room()?.free;
        if free < bytes.saturating_add(reserve) {
            return Err(StorageError::Full { free_mib: free >> 20, reserve_mib: reserve >> 20 });
        }
        Ok(())
    }

    /// Removes everything of a sandbox; nothing there is no error. Blocks.
    ///
    /// # Errors
    /// Something does not go.
    pub fn remove_sandbox_dir(&self, id: SandboxId) -> Result<(), StorageError> {
        let dir = self.sandbox_dir(id);
        if !dir.exists() {
            return Ok(());
        }
        self.remove_dir(&dir)?;
        self.sync_sandbox_dirs()
    }

    /// Sets something odd aside for a person to inspect, and returns its new path.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn quarantine(&self, path: &Path) -> Result<PathBuf, StorageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = self.root.join("quarantine");
        let free = (0..u32::MAX).map(|n| dir.join(format!("{name}.{n}"))).find(|target| !target.exists());
        let target = free.unwrap_or_else(|| dir.join(name));
        std::fs::rename(path, &target).map_err(failed("set aside", path))?;
        Ok(target)
    }

    /// Unmounts and detaches a store of our own.
    ///
    /// # Errors
    /// Something in it is in use; it stays for the next start.
    pub fn close(&self) -> Result<(), StorageError> {
        if self.root == self.dir {
            return Ok(());
        }
        let backing = self.dir.join(own_xfs::OWN_XFS);
        let device = loopdev::find(&backing).map_err(failed("find the device of", &backing))?;
        mounts::unmount(&self.root).map_err(failed("unmount", &self.root))?;
        match device {
            Some(device) => loopdev::detach(&device).map_err(failed("detach", &device)),
            None => Ok(()),
        }
    }
}
