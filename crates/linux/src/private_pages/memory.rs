//! Reading the memory of another process, and writing its pages into a copy of the file it maps.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::checksum::{PAGE_BYTES, is_zero, sum_of};
use super::pagemap::{ENTRY_BYTES, Mapping, Run, joined};

/// Runs read in one call, as many as the kernel takes. None is longer than a chunk, and a call of more than 2 GiB would be cut short.
const RUNS_AT_ONCE: usize = 1024;

/// Copied counts the pages that were copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Pages written into the target.
    pub written: u64,
    /// Pages that hold only zeros: holes in the target.
    pub zero: u64,
    /// To be added (wrapping) to the checksum of `file` to get the one of `target`.
    pub checksum_change: u64,
}

/// Memory of a process.
pub struct Memory {
    pub process: Pid,
    pub pagemap: File,
}

impl Memory {
    /// Reads these runs into `into`, one after another, each thread as many bytes of them.
    ///
    /// # Errors
    /// The process is gone.
    pub fn read_all(&self, runs: &[Run], into: &mut [u8], readers: usize) -> io::Result<()> {
        let share = into.len().div_ceil(readers).max(1);
        std::thread::scope(|scope| {
            let (mut runs, mut into, mut others) = (runs, into, Vec::new());
            while !runs.is_empty() {
                let (mut count, mut bytes) = (0, 0);
                while count < runs.len() && bytes < share {
                    bytes += runs[count].length();
                    count += 1;
                }
                let (its_runs, rest) = runs.split_at(count);
                let (its_bytes, after) = into.split_at_mut(bytes);
                (runs, into) = (rest, after);
                others.push(scope.spawn(|| self.read(its_runs, its_bytes)));
            }
            others.into_iter().try_for_each(joined)
        })
    }

    /// Reads these runs in one copy; by way of `/proc/PID/mem` the kernel makes two, a page at a time.
    ///
    /// # Errors
    /// The process is gone.
    pub fn read(&self, mut runs: &[Run], mut into: &mut [u8]) -> io::Result<()> {
        while !runs.is_empty() {
            let (now, later) = runs.split_at(runs.len().min(RUNS_AT_ONCE));
            runs = later;
            let at = |run: &Run| {
                let base = usize::try_from(run.address).map_err(io::Error::other)?;
                Ok(RemoteIoVec { base, len: run.length() })
            };
            let remote = now.iter().map(at).collect::<io::Result<Vec<_>>>()?;
            let bytes = now.iter().map(Run::length).sum();
            let (its_bytes, after) = into.split_at_mut(bytes);
            into = after;
            let read = process_vm_readv(self.process, &mut [IoSliceMut::new(its_bytes)], &remote)?;
            if read != bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reading goes by number, which could be another process's by now; the open pagemap is of the one it was opened for, and of none
    /// when that is gone. So asked afterwards it vouches for all that was read before.
    ///
    /// # Errors
    /// The process is gone, so what was read may be another's.
    pub fn still_there(&self, mappings: &[Mapping]) -> io::Result<()> {
        let Some(mapping) = mappings.first() else { return Ok(()) };
        self.pagemap.read_exact_at(&mut [0; ENTRY_BYTES], mapping.begin / PAGE_BYTES as u64 * ENTRY_BYTES as u64)
    }
}

/// Writer writes pages into a copy and counts what they change.
pub struct Writer {
    pub base: File,
    pub target: File,
    pub copied: Copied,
    /// Bytes of the base where a page is replaced.
    pub old: Vec<u8>,
}

impl Writer {
    /// Neighbouring pages of one kind go together: one call each.
    ///
    /// # Errors
    /// The target's disk is full, or the base cannot be read.
    pub fn pages(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.old.resize(bytes.len(), 0);
        self.base.read_exact_at(&mut self.old, offset)?;
        let change = sum_of(bytes, offset).wrapping_sub(sum_of(&self.old, offset));
        self.copied.checksum_change = self.copied.checksum_change.wrapping_add(change);
        let mut begin = 0;
        while begin < bytes.len() {
            let zero = is_zero(&bytes[begin..begin + PAGE_BYTES]);
            let mut end = begin + PAGE_BYTES;
            while end < bytes.len() && is_zero(&bytes[end..end + PAGE_BYTES]) == zero {
                end += PAGE_BYTES;
            }
            let (position, length) = (offset + begin as u64, (end - begin) as u64);
            if zero {
                self.punch(position, length)?;
                self.copied.zero += length / PAGE_BYTES as u64;
            } else {
                self.target.write_all_at(&bytes[begin..end], position)?;
                self.copied.written += length / PAGE_BYTES as u64;
            }
            begin = end;
        }
        Ok(())
    }

    fn punch(&self, position: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.target, flags, position.cast_signed(), length.cast_signed()).map_err(Into::into)
    }
}
