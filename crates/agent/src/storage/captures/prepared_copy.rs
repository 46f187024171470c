//! Copy of the file a machine's memory is mapped over, which never changes: so it can be made before a capture needs it.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use wrenn_linux::files;

use crate::storage::error::{StorageError, failed};

/// Pieces of a memory file from which on it is copied: sharing takes some 10 us for each, and a copy some 1 ms for a MiB. This many
/// in any file, and one for so many bytes of a large one.
pub(super) const PIECES_MIN: u64 = 4096;
const PIECE_BYTES: u64 = 128 * 1024;
/// Held by the one copy that is made at a time: each takes what the disk has left for its own.
static COPYING: Mutex<()> = Mutex::new(());

/// PreparedCopy is a memory file without a name, gone with whoever made it until a capture takes it.
pub struct PreparedCopy(File);

impl PreparedCopy {
    /// Makes a copy that shares its blocks with `base` or, when that lies in so many pieces that sharing has become slow and
    /// `spare_bytes` says that there is room, one with blocks of its own. Each capture adds pieces where the guest wrote, so this is
    /// once in hundreds of pauses. Blocks.
    ///
    /// # Errors
    /// The file system cannot share blocks, or has no room.
    pub fn make(base: &Path, spare_bytes: impl FnOnce() -> Result<u64, StorageError>) -> Result<Self, StorageError> {
        let directory = base.parent().unwrap_or(Path::new("/"));
        let copy = files::unnamed(directory).map_err(failed("make a file in", directory))?;
        let from = File::open(base).map_err(failed("open", base))?;
        let length = from.metadata().map_err(failed("inspect", base))?.len();
        let pieces = files::pieces(&from).map_err(failed("inspect", base))?;
        let is_crowded = u64::from(pieces) > PIECES_MIN.max(length / PIECE_BYTES);
        // The agent's own store always shares blocks; a copy is what is left where a file system does not.
        let shared = if is_crowded { None } else { Some(files::share(&from, &copy)) };
        if let Some(Ok(())) = shared {
            return Ok(Self(copy));
        }
        let _turn = COPYING.lock().unwrap_or_else(PoisonError::into_inner);
        if length <= spare_bytes()? {
            files::copy_data(&from, &copy).map_err(failed("copy", base))?;
            return Ok(Self(copy));
        }
        shared.unwrap_or_else(|| files::share(&from, &copy)).map_err(failed("share", base))?;
        Ok(Self(copy))
    }

    pub(super) fn give_name(&self, path: &Path) -> Result<(), StorageError> {
        files::give_name(&self.0, path).map_err(failed("name", path))
    }
}
