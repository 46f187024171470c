//! Pages of a private file mapping that no longer are the file's: what a process wrote since it mapped the file.
//!
//! The kernel keeps that list anyway: a written page of a private mapping has become anonymous memory. So nothing has to be
//! tracked while the process runs, and copying costs what was written, not what was mapped.

mod checksum;
mod memory;
mod pagemap;

use std::fs::File;
use std::io;
use std::path::Path;

use nix::unistd::Pid;

use checksum::CHUNK_BYTES;
pub use checksum::{PAGE_BYTES, checksum};
pub use memory::Copied;
use memory::{Memory, Writer};
use pagemap::{ENTRIES, ENTRY_BYTES, Found, Mapping, Run, UsedParts, find, mappings};

/// Threads that read at the same time; the process stands still for all of it.
const READERS_MAX: usize = 8;

/// Taker holds a process and a copy of its file, ready for its pages. Made ahead of the moment, because the process has to stand still
/// from then on: what can be opened, looked up and allocated before is.
pub struct Taker {
    mappings: Vec<Mapping>,
    memory: Memory,
    /// Pagemap entries, as read: for each reader.
    entries: Vec<Vec<u8>>,
    /// Room for pages, each of its own touched already.
    room: Vec<u8>,
    writer: Writer,
}

impl Taker {
    /// Prepares to take the private pages of `process`'s mappings of `file`, each into its own position in `target`, which must be as
    /// long. At most `held_bytes_max` bytes of them are held until [`Taken::finish`].
    ///
    /// # Errors
    /// The process is gone or does not map the file.
    pub fn new(process: i32, file: &Path, target: File, held_bytes_max: usize) -> io::Result<Self> {
        let mappings = mappings(process, &file.metadata()?, file)?;
        if mappings.is_empty() {
            let why = format!("process {process} does not map {}", file.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        // What it has now, and an eighth for what it still writes.
        let expected = crate::process::anonymous_bytes(process).unwrap_or(0);
        let room = usize::try_from(expected + expected / 8).unwrap_or(held_bytes_max).min(held_bytes_max);
        let readers = std::thread::available_parallelism().map_or(1, usize::from).min(READERS_MAX);
        Ok(Self {
            mappings,
            memory: Memory {
                process: Pid::from_raw(process),
                pagemap: File::open(format!("/proc/{process}/pagemap"))?,
            },
            entries: vec![vec![1; ENTRIES * ENTRY_BYTES]; readers],
            room: vec![1; room / PAGE_BYTES * PAGE_BYTES],
            writer: Writer { base: File::open(file)?, target, copied: Copied::default(), old: Vec::new() },
        })
    }

    /// Takes them. The process must stand still meanwhile, and need not after: reading is all it has to wait for. What the room
    /// does not hold is written here.
    ///
    /// # Errors
    /// The process is gone, or the target's disk is full. `target` is then half-written.
    pub fn take(self) -> io::Result<Taken> {
        let Self { mappings, memory, mut entries, mut room, mut writer } = self;
        let Found { runs, used } = find(&memory.pagemap, &mappings, &mut entries)?;
        let (mut held, mut filled, mut through) = (Vec::new(), 0, vec![0; CHUNK_BYTES]);
        for run in runs {
            let part = run.length().min(room.len() - filled);
            held.extend(run.first(part).pieces());
            filled += part;
            for piece in run.after(part).pieces() {
                let into = &mut through[..piece.length()];
                memory.read(&[piece], into)?;
                writer.pages(into, piece.offset)?;
            }
        }
        room.truncate(filled);
        memory.read_all(&held, &mut room, entries.len())?;
        memory.still_there(&mappings)?;
        Ok(Taken { writer, held, bytes: room, used })
    }
}

/// Taken is what a process had written at one instant, on its way into a copy of the file: some of it held in memory, the rest there.
pub struct Taken {
    writer: Writer,
    /// Runs that are held, in pieces and in the order of `bytes`.
    held: Vec<Run>,
    bytes: Vec<u8>,
    used: UsedParts,
}

impl Taken {
    /// Place and length, in bytes, of what the process had in its memory of the file, at most 4096 parts: a successor will need much
    /// of it soon.
    pub fn used(&self) -> &[(u64, u64)] {
        &self.used.0
    }

    /// Writes what was held. The process may run again.
    ///
    /// # Errors
    /// The target's disk is full. The target is then half-written.
    pub fn finish(mut self) -> io::Result<Copied> {
        let mut rest = self.bytes.as_slice();
        for piece in &self.held {
            let (bytes, after) = rest.split_at(piece.length());
            self.writer.pages(bytes, piece.offset)?;
            rest = after;
        }
        Ok(self.writer.copied)
    }
}

#[cfg(test)]
mod tests;
