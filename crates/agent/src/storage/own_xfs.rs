//! XFS of our own, in a file, where the disk cannot share blocks between files.

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wrenn_linux::{files, loopdev, mounts, tool};

use super::error::{StorageError, failed};

/// Name of the file that holds it.
pub const OWN_XFS: &str = "store.xfs";
/// Longest time for making a file system, which writes a few megabytes.
const MKFS_WAIT: Duration = Duration::from_secs(120);
/// Bytes of the store file when nothing is set: at most this, and at most four fifths of what is free. The file is sparse.
const STORE_BYTES_DEFAULT: u64 = 200 << 30;
/// Longest time for processes that are ending to close the files of a store that was shut down.
const SHUT_DOWN_WAIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of the store file at least: XFS refuses less.
const STORE_BYTES_MIN: u64 = 512 << 20;

/// Whether files of this directory can share blocks: found out by doing it.
///
/// # Errors
/// The directory cannot be written.
pub fn can_share(dir: &Path) -> Result<bool, StorageError> {
    let (one, two) = (dir.join(".probe-1"), dir.join(".probe-2"));
    let _ = std::fs::remove_file(&two);
    std::fs::write(&one, [1u8; 4096]).map_err(failed("write", &one))?;
    let shared = files::reflink(&one, &two).is_ok();
    let _ = std::fs::remove_file(&one);
    let _ = std::fs::remove_file(&two);
    Ok(shared)
}

/// Mounts the XFS of `dir` and returns its root; makes it at the first time. A predecessor's mount is taken over.
///
/// # Errors
/// It cannot be made or mounted, or is in use by processes that do not end.
pub async fn open(dir: &Path, bytes: Option<u64>) -> Result<PathBuf, StorageError> {
    let (backing, root) = (dir.join(OWN_XFS), dir.join("store"));
    if mounts::is_mounted(&root).map_err(failed("inspect", &root))? {
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
    // One that an older agent made could be read by everybody.
    std::fs::set_permissions(&backing, Permissions::from_mode(0o600)).map_err(failed("make private", &backing))?;
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
        tokio::time::sleep(POLL_INTERVAL).await;
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

/// Makes the file system, under another name first, so that a kill in the middle leaves no half-made store.
async fn make_xfs(dir: &Path, backing: &Path, bytes: Option<u64>) -> Result<(), StorageError> {
    let mkfs = ["/usr/sbin/mkfs.xfs", "/sbin/mkfs.xfs"].map(PathBuf::from).into_iter().find(|p| p.exists());
    let mkfs = mkfs.ok_or_else(|| StorageError::NoXfs { dir: dir.to_owned() })?;
    let free = mounts::room(dir).map_err(failed("inspect", dir))?.free;
    let bytes = bytes.unwrap_or_else(|| STORE_BYTES_DEFAULT.min(free / 5 * 4).max(STORE_BYTES_MIN));
    let fresh = backing.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&fresh);
    let made = file.and_then(|file| file.set_len(bytes));
    made.map_err(failed("make", &fresh))?;
    let args = ["-q", "-f", "-m", "reflink=1", &fresh.display().to_string()];
    tool::run(&mkfs, &args, MKFS_WAIT).await?;
    std::fs::rename(&fresh, backing).and_then(|()| files::sync_directory(dir)).map_err(failed("make", backing))
}
