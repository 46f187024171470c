//! Draft: a capture that is being made. It counts from the rename that commits it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wrenn_linux::files;

use super::capture::Capture;
use super::layout::{MANIFEST, MEMORY, STATE, discard, file_checksum, state_dir};
use super::manifest::{FORMAT, FileDigest, Manifest, is_state_name};
use super::prepared_copy::PreparedCopy;
use crate::storage::disks::Disk;
use crate::storage::error::{StorageError, failed};
use crate::storage::store::Store;

/// Draft is a capture that does not count yet; dropped, it leaves nothing.
pub struct Draft {
    store: Store,
    dir: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Draft {
    /// Makes the directory of a draft for a capture at `path`; what an earlier try left there goes.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn begin(store: &Store, path: &Path) -> Result<Self, StorageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = path.with_file_name(format!("{name}.new"));
        discard(store, &dir)?;
        let create = |dir: &Path| DirBuilder::new().mode(0o700).create(dir).map_err(failed("create", dir));
        create(&dir)?;
        create(&dir.join(STATE))?;
        Ok(Self { store: store.clone(), dir, path: path.to_owned(), committed: false })
    }

    /// Empty directory in which the VMM's driver makes the files of the device state.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.dir, FORMAT)
    }

    /// Path of the memory file.
    pub fn memory(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }

    /// Begins the memory with a copy of what the machine's is mapped over.
    ///
    /// # Errors
    /// The draft has its memory already.
    pub fn begin_memory(&self, copy: &PreparedCopy) -> Result<(), StorageError> {
        copy.give_name(&self.memory())
    }

    /// Work that captures these disks as they are when it is called, which may be on another thread.
    pub fn capture_disks(&self, disks: &[Disk]) -> impl FnOnce() -> Result<(), StorageError> + Send + 'static {
        let (store, dir, disks) = (self.store.clone(), self.dir.clone(), disks.to_vec());
        move || disks.iter().try_for_each(|disk| store.disks_of(disk.kind()).capture(disk, &dir))
    }

    /// Digests of the files of the device state. Blocks.
    ///
    /// # Errors
    /// A name is none a driver may give, or a file cannot be read.
    pub fn digest_state(&self, names: &[String]) -> Result<BTreeMap<String, FileDigest>, StorageError> {
        let digest = |name: &String| {
            let path = self.state_dir().join(name);
            if !is_state_name(name) {
                return Err(failed("use", &path)(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "not a name for device state",
                )));
            }
            Ok((name.clone(), digest(&path)?))
        };
        names.iter().map(digest).collect()
    }

    /// Digest of the memory file as it is. Reads all of its data. Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest_memory(&self) -> Result<FileDigest, StorageError> {
        digest(&self.memory())
    }

    /// Writes the manifest and syncs all of the draft. After this only the rename is missing. Blocks.
    ///
    /// # Errors
    /// The store has no room or fails.
    pub fn seal(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let path = self.dir.join(MANIFEST);
        let written = serde_json::to_vec(manifest).map_err(io::Error::other).and_then(|bytes| {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, &bytes)
        });
        written.map_err(failed("write", &path))?;
        // Nothing of it counts yet, so no order is needed among them: at once they share the disk's flushes.
        let state = manifest.state.keys().map(|name| self.state_dir().join(name));
        let paths: Vec<PathBuf> = state.chain([self.state_dir(), path, self.dir.clone()]).collect();
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path));
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                paths.iter().try_for_each(|path| sync(path))?;
                manifest.disks.iter().try_for_each(|disk| self.store.disks_of(disk.kind).sync(&self.dir))
            });
            let memory = sync(&self.memory());
            others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(memory)
        })
    }

    /// Shares every file of another capture, which were synced when that was made: only the names are new. Blocks.
    ///
    /// # Errors
    /// The other capture is gone, or the draft is not empty.
    fn share(&self, other: &Capture) -> Result<(), StorageError> {
        let link = |from: &Path, to: &Path| fs::hard_link(from, to).map_err(failed("link", to));
        let format = other.manifest.format;
        let (from, to) = (state_dir(other.path(), format), state_dir(&self.dir, format));
        if to == self.dir {
            // That format has its one file where the directory is now.
            let made = self.state_dir();
            fs::remove_dir(&made).map_err(failed("remove", &made))?;
        }
        for name in other.manifest.state.keys() {
            link(&from.join(name), &to.join(name))?;
        }
        for name in [MEMORY, MANIFEST] {
            link(&other.path().join(name), &self.dir.join(name))?;
        }
        for disk in &other.manifest.disks {
            self.store.disks_of(disk.kind).share(other.path(), &self.dir)?;
        }
        [&to, &self.dir].into_iter().try_for_each(|dir| files::sync_directory(dir).map_err(failed("sync", dir)))
    }

    /// Commits the draft, which must be sealed: from here on it counts. Blocks.
    ///
    /// # Errors
    /// The rename fails, or the files are not what the manifest says.
    pub fn commit(mut self) -> Result<Capture, StorageError> {
        let parent = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        let renamed = fs::rename(&self.dir, &self.path).and_then(|()| files::sync_directory(&parent));
        renamed.map_err(failed("commit", &self.path))?;
        self.committed = true;
        Capture::open(&self.store, &self.path)
    }
}

impl Capture {
    /// Makes the same capture at another path, sharing every file. It counts when this returns. Blocks.
    ///
    /// # Errors
    /// The capture is gone, or the other cannot be made.
    pub fn link_to(&self, path: &Path) -> Result<Self, StorageError> {
        let draft = Draft::begin(&self.store, path)?;
        draft.share(self)?;
        draft.commit()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            let _ = self.store.release_disks(&self.dir);
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn digest(path: &Path) -> Result<FileDigest, StorageError> {
    let bytes = path.metadata().map_err(failed("read", path))?.len();
    Ok(FileDigest { bytes, checksum: file_checksum(path)? })
}
