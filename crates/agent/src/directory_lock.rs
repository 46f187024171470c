//! One agent per directory: two on one would destroy each other's sandboxes.

use std::fs::File;
use std::path::Path;

/// Exclusive use of a directory; the kernel releases it when its holder drops it or ends.
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of a directory; `None` when another process has it.
    ///
    /// # Errors
    /// The lock file can be neither made nor locked.
    pub fn take(dir: &Path) -> std::io::Result<Option<Self>> {
        let path = dir.join("lock");
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
