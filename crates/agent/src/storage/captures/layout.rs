//! Names of a capture's files, their checksum, and the removal of all of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use wrenn_linux::private_pages;

use super::manifest::FORMAT_ONE_STATE_FILE;
use crate::storage::error::{StorageError, failed};
use crate::storage::store::Store;

pub const MANIFEST: &str = "manifest.json";
/// Directory of the device state's files.
pub const STATE: &str = "state";
pub const MEMORY: &str = "memory";

/// Directory of a capture's device state.
pub fn state_dir(capture_dir: &Path, format: u32) -> PathBuf {
    if format == FORMAT_ONE_STATE_FILE { capture_dir.to_owned() } else { capture_dir.join(STATE) }
}

/// Checksum of one file. Reads all of its data. Blocks.
///
/// # Errors
/// The file cannot be read.
pub fn file_checksum(path: &Path) -> Result<u64, StorageError> {
    File::open(path).and_then(|file| private_pages::checksum(&file)).map_err(failed("read", path))
}

/// Removes a capture or a draft in one step that a kill cannot leave half done: it loses its name first. None is no error. Blocks.
///
/// # Errors
/// It does not go.
pub fn discard(store: &Store, path: &Path) -> Result<(), StorageError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let doomed = path.with_file_name(format!("{name}.gone"));
    store.remove_dir(&doomed)?;
    match fs::rename(path, &doomed) {
        Ok(()) => store.remove_dir(&doomed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}
