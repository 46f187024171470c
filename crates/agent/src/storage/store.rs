//! The place where sandboxes' files live. Its file system must share blocks between files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::HOST_DISK_RESERVE_BYTES;
use wrenn_linux::mounts::{self, Room};
use wrenn_linux::tool::{self, ToolError};
use wrenn_linux::{files, loopdev};

/// Making a file system writes a few megabytes.
const MKFS_WAIT: Duration = Duration::from_secs(120);
/// Bytes of the store file when nothing is set: at most this, and at most four fifths of what is free. The file is sparse.
const STORE_BYTES_DEFAULT: u64 = 200 << 30;
/// A store that was shut down is let go of by processes that are ending.
const SHUT_DOWN_WAIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// XFS refuses less.
const STORE_BYTES_MIN: u64 = 512 << 20;

/// A step with files failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("could not {act} {}", path.display())]
    File { act: &'static str, path: PathBuf, source: io::Error },
    #[error("could not make a file system")]
    Tool(#[from] ToolError),
    #[error("mkfs.xfs is not installed (Debian package xfsprogs), and {} cannot share blocks between files", dir.display())]
    NoXfs { dir: PathBuf },
    #[error(
        "the host's disk is full: {free_mib} MiB are free and {reserve_mib} MiB are kept for running sandboxes; free some space on the host or delete capsules"
    )]
    Full { free_mib: u64, reserve_mib: u64 },
    #[error(
        "the store {} shut itself down after an error of its disk, and something still uses it: look into the kernel's log, end the VMs on it, start the agent again",
        .0.display()
    )]
    ShutDown(PathBuf),
    #[error("there is no template {0} on this host")]
    NoImage(String),
    #[error("there is no snapshot {0} on this host")]
    NoSnapshot(String),
    #[error("the snapshot cannot be used on this host: {0}; start it where it was made, or make a new one")]
    Foreign(String),
    #[error("{} is damaged: its checksum is wrong", .0.display())]
    Damaged(PathBuf),
    #[error("disk_size_mb must be at least {min_mib}, the size of the template's image; {asked_mib} was asked")]
    TooSmall { min_mib: u64, asked_mib: u32 },
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::File { act, path, source }
}

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    root: PathBuf,
}

impl Store {
    /// Opens it; makes and mounts an XFS of our own where the disk cannot share blocks. A predecessor's mount is taken over.
    pub async fn open(dir: &Path, bytes: Option<u64>) -> Result<Self, StorageError> {
        for name in ["kernels", "images", "sandboxes", "snapshots"] {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).map_err(failed("create", &path))?;
        }
        let root = if can_share(dir)? { dir.to_owned() } else { own_xfs(dir, bytes).await? };
        for name in ["images", "sandboxes", "snapshots", "templates", "making", "quarantine"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path).map_err(failed("create", &path))?;
        }
        Ok(Self { dir: dir.to_owned(), root })
    }

    /// Where operators publish kernels and images.
    pub fn published(&self) -> &Path {
        &self.dir
    }

    /// Where images and sandboxes live.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A sandbox's own directory.
    pub fn sandbox_dir(&self, id: SandboxId) -> PathBuf {
        self.root.join("sandboxes").join(id.to_string())
    }

    /// Place of a snapshot; its id is 32 hex digits.
    pub fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    /// Place of a template's memory: one per image version and size.
    pub fn template_dir(&self, name: &str) -> PathBuf {
        self.root.join("templates").join(name)
    }

    /// Where templates' memories are made; everything in it is a kill's left-over at a start.
    pub fn making_dir(&self) -> PathBuf {
        self.root.join("making")
    }

    /// Bytes, the scarcer of the store and the disk its file lies on.
    pub fn room(&self) -> Result<Room, StorageError> {
        let inside = mounts::room(&self.root).map_err(failed("look at", &self.root))?;
        let beneath = mounts::room(&self.dir).map_err(failed("look at", &self.dir))?;
        Ok(if beneath.free < inside.free { beneath } else { inside })
    }

    /// Bytes that may be used for what would be nice to have, when `wanted` more are about to be written.
    pub fn spare(&self, wanted: u64) -> Result<u64, StorageError> {
        Ok(self.room()?.free.saturating_sub(wanted.saturating_add(HOST_DISK_RESERVE_BYTES)))
    }

    /// Refuses while only the reserve is left, so that running sandboxes can still write.
    pub fn admit(&self) -> Result<(), StorageError> {
        self.admit_bytes(0, HOST_DISK_RESERVE_BYTES)
    }

    /// Makes a sandbox's directory; one that is there is no error. It outlasts a power cut after [`Store::sync_sandbox_dirs`].
    pub fn create_sandbox_dir(&self, id: SandboxId) -> Result<PathBuf, StorageError> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = self.sandbox_dir(id);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("create", &dir))?;
        Ok(dir)
    }

    /// Makes the directories of sandboxes outlast a power cut. Blocks while the disk writes.
    pub fn sync_sandbox_dirs(&self) -> Result<(), StorageError> {
        let dir = self.root.join("sandboxes");
        files::sync_directory(&dir).map_err(failed("sync", &dir))
    }

    /// Clones an image as a sandbox's disk of `disk_mib`.
    pub fn create_disk(&self, image: &Path, image_bytes: u64, disk: &Path, disk_mib: u32) -> Result<(), StorageError> {
        let wanted = u64::from(disk_mib) << 20;
        if wanted < image_bytes {
            return Err(StorageError::TooSmall { min_mib: image_bytes.div_ceil(1 << 20), asked_mib: disk_mib });
        }
        let cloned = files::reflink(image, disk).and_then(|file| file.set_len(wanted));
        cloned.map_err(failed("make", disk))
    }

    /// Makes a disk that was `bytes` long `disk_mib` long; one that is longer stays as it is.
    pub fn grow_disk(&self, disk: &Path, bytes: u64, disk_mib: u32) -> Result<(), StorageError> {
        let wanted = u64::from(disk_mib) << 20;
        if wanted <= bytes {
            return Ok(());
        }
        let grown = std::fs::File::options().write(true).open(disk).and_then(|file| file.set_len(wanted));
        grown.map_err(failed("grow", disk))
    }

    /// Refuses what would leave less than `reserve` bytes free after `bytes` more are written.
    pub fn admit_bytes(&self, bytes: u64, reserve: u64) -> Result<(), StorageError> {
        let free = self.room()?.free;
        if free < bytes.saturating_add(reserve) {
            return Err(StorageError::Full { free_mib: free >> 20, reserve_mib: reserve >> 20 });
        }
        Ok(())
    }

    /// Removes everything of a sandbox; nothing there is no error.
    pub fn remove_sandbox_dir(&self, id: SandboxId) -> Result<(), StorageError> {
        let dir = self.sandbox_dir(id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => {
                other.map_err(failed("remove", &dir))?;
                self.sync_sandbox_dirs()
            }
        }
    }

    /// Sets something odd aside for a person to look at.
    pub fn quarantine(&self, path: &Path) -> Result<PathBuf, StorageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = self.root.join("quarantine");
        let free = (0..u32::MAX).map(|n| place.join(format!("{name}.{n}"))).find(|target| !target.exists());
        let target = free.unwrap_or_else(|| place.join(name));
        std::fs::rename(path, &target).map_err(failed("set aside", path))?;
        Ok(target)
    }

    /// Unmounts and detaches a store of our own. Fails while something in it is in use; it then stays for the next start.
    pub fn close(&self) -> Result<(), StorageError> {
        if self.root == self.dir {
            return Ok(());
        }
        let backing = self.dir.join("store.xfs");
        let device = loopdev::find(&backing).map_err(failed("find the device of", &backing))?;
        mounts::unmount(&self.root).map_err(failed("unmount", &self.root))?;
        match device {
            Some(device) => loopdev::detach(&device).map_err(failed("detach", &device)),
            None => Ok(()),
        }
    }
}

/// Whether files of this directory can share blocks: found out by doing it.
fn can_share(dir: &Path) -> Result<bool, StorageError> {
    let (one, two) = (dir.join(".probe-1"), dir.join(".probe-2"));
    let _ = std::fs::remove_file(&two);
    std::fs::write(&one, [1u8; 4096]).map_err(failed("write", &one))?;
    let shared = files::reflink(&one, &two).is_ok();
    let _ = std::fs::remove_file(&one);
    let _ = std::fs::remove_file(&two);
    Ok(shared)
}

async fn own_xfs(dir: &Path, bytes: Option<u64>) -> Result<PathBuf, StorageError> {
    let (backing, root) = (dir.join("store.xfs"), dir.join("store"));
    if mounts::is_mounted(&root).map_err(failed("look at", &root))? {
        if mounts::is_alive(&root) {
            return Ok(root);
        }
        tracing::error!(store = %backing.display(), "the store shut itself down after an error of its disk; mounting it anew");
        mounts::unmount(&root).map_err(failed("unmount", &root))?;
    }
    std::fs::create_dir_all(&root).map_err(failed("create", &root))?;
    if !backing.exists() {
        make_xfs(dir, &backing, bytes).await?;
    }
    let begin = Instant::now();
    loop {
        mount(&backing, &root)?;
        if mounts::is_alive(&root) {
            break;
        }
        // One that was shut down is in use until its last file is closed: what was mounted is still the old one.
        mounts::unmount(&root).map_err(failed("unmount", &root))?;
        if begin.elapsed() > SHUT_DOWN_WAIT {
            return Err(StorageError::ShutDown(backing));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::info!(store = %backing.display(), "this disk cannot share blocks between files: using an XFS store of our own");
    Ok(root)
}

fn mount(backing: &Path, root: &Path) -> Result<(), StorageError> {
    let device = match loopdev::find(backing).map_err(failed("find the device of", backing))? {
        Some(device) => device,
        None => loopdev::attach(backing).map_err(failed("attach", backing))?,
    };
    mounts::mount_xfs(&device, root).map_err(|source| {
        let _ = loopdev::detach(&device);
        StorageError::File { act: "mount", path: backing.to_owned(), source }
    })
}

/// Made under another name first, so that a kill in the middle leaves no half-made store.
async fn make_xfs(dir: &Path, backing: &Path, bytes: Option<u64>) -> Result<(), StorageError> {
    let mkfs = ["/usr/sbin/mkfs.xfs", "/sbin/mkfs.xfs"].map(PathBuf::from).into_iter().find(|p| p.exists());
    let mkfs = mkfs.ok_or_else(|| StorageError::NoXfs { dir: dir.to_owned() })?;
    let free = mounts::room(dir).map_err(failed("look at", dir))?.free;
    let bytes = bytes.unwrap_or_else(|| STORE_BYTES_DEFAULT.min(free / 5 * 4).max(STORE_BYTES_MIN));
    let fresh = backing.with_extension("new");
    let made = std::fs::File::create(&fresh).and_then(|file| file.set_len(bytes));
    made.map_err(failed("make", &fresh))?;
    let args = ["-q", "-f", "-m", "reflink=1", &fresh.display().to_string()];
    tool::run(&mkfs, &args, MKFS_WAIT).await?;
    std::fs::rename(&fresh, backing).and_then(|()| files::sync_directory(dir)).map_err(failed("make", backing))
}
