//! Captures of a machine: what a driver is asked for, and the three steps in which it answers in its own way.
//!
//! ```text
//! begin_capture  (runs)  ->  PendingCapture::take  (paused)  ->  TakenCapture::finish  (runs again, or is ended)
//! ```
//! One driver has the pages copied by us and the VMM write nothing but device state; another has the VMM write both. Neither shows
//! here (docs/decisions/0013).

use std::path::PathBuf;

use futures::future::BoxFuture;

use crate::VmmError;

/// CaptureRequest says where a capture goes.
#[derive(Debug, Clone)]
pub struct CaptureRequest {
    /// Empty private directory in which the driver makes the files of the device state, under names of its own.
    pub state_dir: PathBuf,
    /// File for the memory. It is there already, a copy of the file the machine's memory is mapped over: a driver that copies changed
    /// pages writes them into it, one whose VMM writes all of memory replaces it.
    pub memory: PathBuf,
    /// Bytes of memory held for [`TakenCapture::finish`] at most. What they do not hold is written while the machine stands still.
    pub held_bytes_max: usize,
}

/// PendingCapture is a capture for which everything is ready. Dropped, it changes nothing.
pub trait PendingCapture: Send {
    /// Takes memory and device state of the machine, which must be paused and must stay so until this returns. Afterwards it may be
    /// resumed or ended. Nothing is synced.
    ///
    /// # Errors
    /// The machine is not paused, or its state cannot be written. The machine can go on, the files are of no use.
    fn take(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn TakenCapture>, VmmError>>;
}

/// TakenCapture is a capture whose instant has passed; some of its memory may still be held by this process.
pub trait TakenCapture: Send {
    /// Names of the files of the device state, complete by now. Each is 1 to 64 characters of `a-z 0-9 . _ -`, the first no dot.
    fn state_files(&self) -> Vec<String>;
    /// Position and length, in bytes, of the parts of memory the guest had in use, at most 4096 parts: a successor will need much
    /// of it soon. Empty when it is not known.
    fn used(&self) -> &[(u64, u64)];
    /// Completes the memory file, without syncing it. The machine may run or be gone.
    ///
    /// # Errors
    /// The file cannot be written; it is of no use then.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<CapturedMemory, VmmError>>;
}

/// CapturedMemory says how the memory file of a finished capture was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapturedMemory {
    /// Pages that had changed were written into the copy.
    Changed(ChangedPages),
    /// All of memory was written by the VMM.
    Whole,
}

/// ChangedPages counts what differs between a memory file and the one it is a copy of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangedPages {
    /// Pages of 4 KiB written.
    pub written: u64,
    /// Pages of 4 KiB that hold only zeros now and are holes.
    pub zero: u64,
    /// Number to add (wrapping) to the page checksum of the original to get the copy's.
    pub checksum_change: u64,
}

/// DeviceState names the files of a capture's device state, for the driver that wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    pub dir: PathBuf,
    pub files: Vec<String>,
}

impl DeviceState {
    /// Path of the only file; an error where there are none or several.
    ///
    /// # Errors
    /// The state was not written as one file, so another driver wrote it.
    pub fn only_file(&self) -> Result<PathBuf, VmmError> {
        match self.files.as_slice() {
            [name] => Ok(self.dir.join(name)),
            files => Err(VmmError::new("restore", format!("its state has {} files instead of one", files.len()))),
        }
    }
}
