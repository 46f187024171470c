//! Captures: a sandbox at one instant. Made under another name, counted from the moment it has its own, never changed after.
//!
//! ```text
//! <place>.new/{state,memory,disk}  ->  manifest.json, everything synced  ->  rename to <place>
//! ```
//! Files are shared, not copied: a sandbox that starts from a capture gets a hard link to its memory (one page cache for all of
//! them) and a reflink of its disk. So a capture can be removed while sandboxes made from it live on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use wrenn_linux::{files, private_pages};

use super::store::StorageError;

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state";
const MEMORY: &str = "memory";
const DISK: &str = "disk";
/// Format of the manifest; a later one is refused, not guessed at.
const FORMAT: u32 = 1;
/// Bytes of a manifest; a large environment is the longest part.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of device state; it is some 20 KB without memory.
const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Pieces of a memory file from which on it is copied: sharing takes some 10 us for each, and a copy some 1 ms for a MiB. This many
/// in any file, and one for so many bytes of a large one.
const PIECES_MIN: u64 = 4096;
const PIECE_BYTES: u64 = 128 * 1024;
/// One copy after another: each takes what the disk has left for its own.
static COPYING: Mutex<()> = Mutex::new(());
/// Bytes of memory read before a guest asks for them.
const READ_AHEAD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What device state depends on: it can be loaded only where all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    pub vmm: String,
    pub vmm_version: String,
    /// "kvm" or "tcg".
    pub acceleration: String,
    /// Digest of the processor's model and features, hex.
    pub cpu: String,
}

impl Maker {
    /// Says what is different here, if anything.
    fn differs_from(&self, here: &Self) -> Option<String> {
        let pairs = [
            ("VMM", &self.vmm, &here.vmm),
            ("VMM version", &self.vmm_version, &here.vmm_version),
            ("acceleration", &self.acceleration, &here.acceleration),
            ("processor", &self.cpu, &here.cpu),
        ];
        let (what, then, now) = pairs.into_iter().find(|(_, then, now)| then != now)?;
        Some(format!("its {what} was {then} and is {now} here"))
    }
}

/// Size and checksum of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub bytes: u64,
    pub checksum: u64,
}

/// What a capture is. Holds the guest's token: this type has no Debug form.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub maker: Maker,
    pub template: String,
    /// Version of the image its disk descends from.
    pub image: String,
    pub kernel: String,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_bytes: u64,
    pub state: Mark,
    pub memory: Mark,
    /// The run of the host in which it was written: under another one its pages have been through the disk.
    pub boot_id: String,
    pub default_user: String,
    pub default_workdir: String,
    pub default_env: BTreeMap<String, String>,
    /// What the guest inside takes for its access token.
    pub token: String,
    /// Parts of the memory its guest had in use, place and length in bytes: whoever starts from it will need them first.
    #[serde(default)]
    pub used: Vec<(u64, u64)>,
    /// Versions reported with the sandbox.
    pub metadata: BTreeMap<String, String>,
    /// Unix ms.
    pub created_at_ms: i64,
}

/// A capture that counts.
#[derive(Clone)]
pub struct Capture {
    dir: PathBuf,
    pub manifest: Manifest,
}

/// One that does not count yet; dropped, it leaves nothing.
pub struct Draft {
    fresh: PathBuf,
    place: PathBuf,
    kept: bool,
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::File { act, path, source }
}

fn fresh_name(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    place.with_file_name(format!("{name}.new"))
}

/// A copy of what a machine's memory is mapped over, which never changes: so it can be made before a capture needs it. It has no
/// name yet and is gone with whoever made it.
pub struct BaseCopy(File);

impl BaseCopy {
    /// One that shares its blocks or, when it lies in so many pieces that sharing has become slow and `spare_bytes` says that there
    /// is room, one of its own. Each capture adds pieces where the guest wrote, so this is once in hundreds of pauses.
    pub fn make(base: &Path, spare_bytes: impl FnOnce() -> Result<u64, StorageError>) -> Result<Self, StorageError> {
        let directory = base.parent().unwrap_or(Path::new("/"));
        let copy = files::unnamed(directory).map_err(failed("make a file in", directory))?;
        let from = File::open(base).map_err(failed("open", base))?;
        let length = from.metadata().map_err(failed("look at", base))?.len();
        let pieces = files::pieces(&from).map_err(failed("look at", base))?;
        if u64::from(pieces) > PIECES_MIN.max(length / PIECE_BYTES) {
            let _turn = COPYING.lock().unwrap_or_else(PoisonError::into_inner);
            if length <= spare_bytes()? {
                files::copy_data(&from, &copy).map_err(failed("copy", base))?;
                return Ok(Self(copy));
            }
        }
        files::share(&from, &copy).map_err(failed("share", base))?;
        Ok(Self(copy))
    }
}

impl Draft {
    /// Makes its directory; what an earlier try left there goes.
    pub fn begin(place: &Path) -> Result<Self, StorageError> {
        use std::os::unix::fs::DirBuilderExt;
        let fresh = fresh_name(place);
        discard(&fresh)?;
        fs::DirBuilder::new().mode(0o700).create(&fresh).map_err(failed("create", &fresh))?;
        Ok(Self { fresh, place: place.to_owned(), kept: false })
    }

    /// Where the VMM writes its device state.
    pub fn state(&self) -> PathBuf {
        self.fresh.join(STATE)
    }

    /// Where memory goes.
    pub fn memory(&self) -> PathBuf {
        self.fresh.join(MEMORY)
    }

    /// Begins the memory with a copy of what the machine's is mapped over.
    pub fn begin_memory(&self, base: BaseCopy) -> Result<(), StorageError> {
        let path = self.memory();
        files::give_name(&base.0, &path).map_err(failed("name", &path))
    }

    /// Takes `disk` as it is at the moment of the call, which may be made from another thread.
    pub fn disk_taker(&self, disk: PathBuf) -> impl FnOnce() -> Result<(), StorageError> + Send + 'static {
        let target = self.fresh.join(DISK);
        move || files::reflink(&disk, &target).map(drop).map_err(failed("share", &disk))
    }

    /// Writes the manifest and syncs all of it. After this only the rename is missing.
    pub fn seal(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let path = self.fresh.join(MANIFEST);
        let written = serde_json::to_vec(manifest).map_err(io::Error::other).and_then(|bytes| {
            use std::os::unix::fs::OpenOptionsExt;
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, &bytes)
        });
        written.map_err(failed("write", &path))?;
        // Nothing of it counts yet, so no order is needed among them: at once they share the disk's flushes.
        let paths = [STATE, DISK, MANIFEST, ""].map(|name| self.fresh.join(name));
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path));
        std::thread::scope(|scope| {
            let others = scope.spawn(|| paths.iter().try_for_each(|path| sync(path)));
            let memory = sync(&self.memory());
            others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(memory)
        })
    }

    /// The instant from which it counts. It must be sealed.
    pub fn commit(mut self) -> Result<Capture, StorageError> {
        let parent = self.place.parent().unwrap_or(Path::new("/")).to_owned();
        let renamed = fs::rename(&self.fresh, &self.place).and_then(|()| files::sync_directory(&parent));
        renamed.map_err(failed("commit", &self.place))?;
        self.kept = true;
        Capture::open(&self.place)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.fresh);
        }
    }
}

impl Capture {
    /// Reads a manifest and compares the files with it. What is on the disk may be half-written or somebody else's.
    pub fn open(place: &Path) -> Result<Self, StorageError> {
        let path = place.join(MANIFEST);
        let odd = |why: String| StorageError::File {
            act: "use the capture",
            path: place.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        };
        let length = path.metadata().map_err(failed("read", &path))?.len();
        if length > MANIFEST_BYTES_MAX {
            return Err(odd("its manifest is too long".into()));
        }
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| odd(format!("its manifest cannot be read: {error}")))?;
        if manifest.format != FORMAT {
            return Err(odd(format!("its manifest has format {}, this agent reads {FORMAT}", manifest.format)));
        }
        let sizes = [(STATE, manifest.state.bytes), (MEMORY, manifest.memory.bytes), (DISK, manifest.disk_bytes)];
        for (name, expected) in sizes {
            let path = place.join(name);
            let actual = path.metadata().map_err(failed("read", &path))?.len();
            if actual != expected {
                return Err(odd(format!("{name} has {actual} bytes instead of {expected}")));
            }
        }
        Ok(Self { dir: place.to_owned(), manifest })
    }

    /// Refuses a capture that cannot be loaded here, before anything is started. Device state is always checked; memory when it
    /// has been through the disk since it was written.
    pub fn check(&self, here: &Maker, boot_id: &str) -> Result<(), StorageError> {
        if let Some(why) = self.manifest.maker.differs_from(here) {
            return Err(StorageError::Foreign(why));
        }
        let path = self.state();
        if self.manifest.state.bytes > STATE_BYTES_MAX || checksum(&path)? != self.manifest.state.checksum {
            return Err(StorageError::Damaged(path));
        }
        if self.manifest.boot_id != boot_id {
            self.check_memory()?;
        }
        Ok(())
    }

    /// Compares all of memory with its checksum.
    pub fn check_memory(&self) -> Result<(), StorageError> {
        let path = self.memory();
        if checksum(&path)? == self.manifest.memory.checksum { Ok(()) } else { Err(StorageError::Damaged(path)) }
    }

    /// Its directory.
    pub fn place(&self) -> &Path {
        &self.dir
    }

    /// Whether it still has its name; one that is removed loses that first.
    pub fn is_there(&self) -> bool {
        self.dir.join(MANIFEST).exists()
    }

    /// Device state.
    pub fn state(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    fn memory(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }

    /// Has the kernel read what will be needed first, at most [`READ_AHEAD_BYTES_MAX`]: a guest that came to each page by itself would
    /// wait for the disk each time. Only advice: what it is based on came from the disk too, and a failure costs time.
    pub fn read_ahead(&self) {
        let mut rest = READ_AHEAD_BYTES_MAX;
        let parts = self.manifest.used.iter().map_while(|&(place, length)| {
            let part = (rest > 0).then_some((place, length.min(rest)))?;
            rest -= part.1;
            Some(part)
        });
        if let Err(error) = File::open(self.memory()).and_then(|file| files::read_ahead(&file, parts)) {
            tracing::warn!(%error, place = %self.dir.display(), "a capture's memory is not read ahead");
        }
    }

    /// Gives a sandbox its memory base and its disk: neither copies anything.
    pub fn give(&self, base: &Path, disk: &Path) -> Result<(), StorageError> {
        fs::hard_link(self.memory(), base).map_err(failed("link", base))?;
        files::reflink(&self.dir.join(DISK), disk).map(drop).map_err(failed("share", disk))
    }

    /// The same capture at another place, sharing every file. Counts when this returns.
    pub fn link_to(&self, place: &Path) -> Result<Self, StorageError> {
        let draft = Draft::begin(place)?;
        // All of it was synced when it was made: only the names are new.
        for name in [STATE, MEMORY, DISK, MANIFEST] {
            let target = draft.fresh.join(name);
            fs::hard_link(self.dir.join(name), &target).map_err(failed("link", &target))?;
        }
        files::sync_directory(&draft.fresh).map_err(failed("sync", &draft.fresh))?;
        draft.commit()
    }

    /// Bytes it takes on the disk, files shared with others counted in full.
    pub fn bytes_used(&self) -> Result<u64, StorageError> {
        use std::os::unix::fs::MetadataExt;
        [STATE, MEMORY, DISK].into_iter().try_fold(0, |sum, name| {
            let path = self.dir.join(name);
            Ok(sum + path.metadata().map_err(failed("read", &path))?.blocks() * 512)
        })
    }
}

/// A mark for a device state file just written.
pub fn mark_state(path: &Path, bytes: u64) -> Result<Mark, StorageError> {
    Ok(Mark { bytes, checksum: checksum(path)? })
}

fn checksum(path: &Path) -> Result<u64, StorageError> {
    File::open(path).and_then(|file| private_pages::checksum(&file)).map_err(failed("read", path))
}

/// Removes a capture or a draft in one step that a kill cannot leave half done: it loses its name first.
pub fn discard(place: &Path) -> Result<(), StorageError> {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let doomed = place.with_file_name(format!("{name}.gone"));
    match fs::remove_dir_all(&doomed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &doomed)(error)),
        _ => {}
    }
    match fs::rename(place, &doomed) {
        Ok(()) => fs::remove_dir_all(&doomed).map_err(failed("remove", &doomed)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", place)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(version: &str) -> Maker {
        Maker { vmm: "qemu".into(), vmm_version: version.into(), acceleration: "tcg".into(), cpu: "c".into() }
    }

    /// A capture whose memory has one page of data, without a VMM.
    fn sample(home: &Path) -> Capture {
        let place = home.join("one");
        let draft = Draft::begin(&place).unwrap();
        fs::write(draft.state(), [7u8; 5000]).unwrap();
        let mut memory = vec![0u8; 1 << 20];
        memory[4096..8192].fill(9);
        fs::write(draft.memory(), &memory).unwrap();
        fs::write(draft.fresh.join(DISK), [1u8; 8192]).unwrap();
        let manifest = Manifest {
            format: FORMAT,
            maker: maker("1"),
            template: "minimal".into(),
            image: "v".into(),
            kernel: "k".into(),
            vcpus: 1,
            memory_mib: 1,
            disk_bytes: 8192,
            state: mark_state(&draft.state(), 5000).unwrap(),
            memory: Mark { bytes: 1 << 20, checksum: checksum(&draft.memory()).unwrap() },
            boot_id: "b".into(),
            default_user: String::new(),
            default_workdir: String::new(),
            default_env: BTreeMap::new(),
            token: "t".into(),
            used: vec![(4096, 4096)],
            metadata: BTreeMap::new(),
            created_at_ms: 0,
        };
        draft.seal(&manifest).unwrap();
        assert!(!place.exists(), "it must not count before it is committed");
        draft.commit().unwrap()
    }

    #[test]
    fn what_is_torn_or_foreign_is_refused_with_its_reason() {
        let home = tempfile::tempdir().unwrap();
        let capture = sample(home.path());
        capture.check(&maker("1"), "b").unwrap();
        let foreign = capture.check(&maker("2"), "b").unwrap_err().to_string();
        assert!(foreign.contains("VMM version was 1 and is 2"), "{foreign}");
        // Memory changed without changing its size: seen after the host was started anew.
        let file = File::options().write(true).open(capture.memory()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[3], 5000).unwrap();
        capture.check(&maker("1"), "b").unwrap();
        assert!(matches!(capture.check(&maker("1"), "another boot"), Err(StorageError::Damaged(_))));
        fs::write(capture.state(), [8u8; 5000]).unwrap();
        assert!(matches!(capture.check(&maker("1"), "b"), Err(StorageError::Damaged(_))));
        File::options().write(true).open(capture.memory()).unwrap().set_len(4096).unwrap();
        assert!(Capture::open(&capture.dir).is_err());
        fs::remove_file(capture.dir.join(MANIFEST)).unwrap();
        assert!(Capture::open(&capture.dir).is_err());
    }

    #[test]
    fn a_linked_capture_outlives_the_one_it_was_linked_from() {
        let home = tempfile::tempdir().unwrap();
        let capture = sample(home.path());
        let child = capture.link_to(&home.path().join("child")).unwrap();
        discard(&capture.dir).unwrap();
        assert!(!capture.dir.exists());
        child.check(&maker("1"), "another boot").unwrap();
    }

    #[test]
    fn memory_in_too_many_pieces_is_copied_into_few() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let base = home.path().join("base");
        let file = File::create_new(&base).unwrap();
        // Written from its end: no block lies behind the one before it.
        for number in (0..=PIECES_MIN).rev() {
            file.write_all_at(&[number as u8 | 1; 4096], number * 8192).unwrap();
        }
        file.sync_all().unwrap();
        assert!(u64::from(files::pieces(&file).unwrap()) > PIECES_MIN);
        let length = file.metadata().unwrap().len();
        drop(BaseCopy::make(&base, || Ok(length)).unwrap());
        let copy = BaseCopy::make(&base, || Ok(length)).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "it has no name, taken or not");
        let draft = Draft::begin(&home.path().join("copy")).unwrap();
        draft.begin_memory(copy).unwrap();
        assert!(fs::read(draft.memory()).unwrap() == fs::read(&base).unwrap());
        assert_eq!(draft.memory().metadata().unwrap().blocks(), file.metadata().unwrap().blocks(), "holes stay holes");
        // Without the room for it, it is shared, which not every file system can.
        let shared = Draft::begin(&home.path().join("shared")).unwrap();
        match BaseCopy::make(&base, || Ok(length - 1)).and_then(|copy| shared.begin_memory(copy)) {
            Ok(()) => {}
            Err(StorageError::File { act, .. }) => assert_eq!(act, "share"),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        drop(Draft::begin(&home.path().join("x")).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
