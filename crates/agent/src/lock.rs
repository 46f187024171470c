//! One agent per directory.

use std::fs::File;
use std::path::Path;

/// Released by the kernel with its holder.
pub struct Lock {
    _file: File,
}

/// `None` when somebody has it.
pub fn take(dir: &Path) -> std::io::Result<Option<Lock>> {
    let path = dir.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}
