//! One fake VMM process: a guest that remembers one mark in memory, and writes it to its disk too.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::mutex::lock;

/// Bytes of a mark on the disk.
const MARK_BYTES: usize = 64;

/// GuestMemory is all that a guest has in memory; it is the device state of a fake capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMemory {
    pub mark: String,
    pub token: String,
    pub lifecycle: String,
}

/// A guest in a VMM.
#[derive(Debug)]
pub struct Guest {
    pub memory: GuestMemory,
    disk: File,
    pub is_paused: bool,
}

impl Guest {
    /// Makes the guest of a VMM that has its disk open.
    ///
    /// # Errors
    /// The disk cannot be opened.
    pub fn new(memory: GuestMemory, disk: &Path, is_paused: bool) -> std::io::Result<Self> {
        let disk = File::options().read(true).write(true).open(disk)?;
        Ok(Self { memory, disk, is_paused })
    }
}

/// Names of files that change while the VMM has them open.
#[derive(Debug, Clone)]
pub struct Paths {
    pub run_dir: PathBuf,
    pub memory: PathBuf,
}

/// A fake VMM process.
pub struct FakeVm {
    pub pid: i32,
    pub slot: u32,
    pub guest: Mutex<Option<Guest>>,
    pub paths: Mutex<Paths>,
    /// Whether the guest never answers.
    pub is_silent: bool,
    /// Held open, so that the VMM is found by it under whatever name it has.
    log: File,
    ended: watch::Sender<bool>,
}

impl FakeVm {
    /// Starts a VMM.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn start(pid: i32, slot: u32, log: &Path, paths: Paths, is_silent: bool) -> std::io::Result<Self> {
        let log = File::options().append(true).create(true).open(log)?;
        let (guest, paths, ended) = (Mutex::default(), Mutex::new(paths), watch::Sender::new(false));
        Ok(Self { pid, slot, guest, paths, is_silent, log, ended })
    }

    /// Whether the process runs.
    pub fn is_alive(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Whether a guest was booted or loaded.
    pub fn has_guest(&self) -> bool {
        lock(&self.guest).is_some()
    }

    /// Ends the process.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Waits until the process has ended.
    pub async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Whether a file below `dir` is open, under the name it has now.
    pub fn holds_file_below(&self, dir: &Path) -> bool {
        std::fs::read_link(format!("/proc/self/fd/{}", self.log.as_raw_fd())).is_ok_and(|path| path.starts_with(dir))
    }

    /// Lets the guest note something in memory and on its disk.
    pub fn write_mark(&self, mark: &str) {
        let mut guest = lock(&self.guest);
        let guest = guest.as_mut().expect("a guest");
        assert!(!guest.is_paused, "a guest that stands still writes nothing");
        let mut bytes = [0u8; MARK_BYTES];
        bytes[..mark.len()].copy_from_slice(mark.as_bytes());
        guest.disk.write_all_at(&bytes, 0).expect("the disk can be written");
        mark.clone_into(&mut guest.memory.mark);
    }

    /// Returns what the guest finds in memory and on its disk.
    pub fn marks(&self) -> (String, String) {
        let guest = lock(&self.guest);
        let guest = guest.as_ref().expect("a guest");
        let mut bytes = [0u8; MARK_BYTES];
        guest.disk.read_exact_at(&mut bytes, 0).expect("the disk can be read");
        let disk = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
        (guest.memory.mark.clone(), disk)
    }
}
