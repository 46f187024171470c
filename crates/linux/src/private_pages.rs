//! Pages of a private file mapping that no longer are the file's: what a process wrote since it mapped the file.
//!
//! The kernel keeps that list anyway: a written page of a private mapping has become anonymous memory. So nothing has to be
//! tracked while the process runs, and copying costs what was written, not what was mapped.
//!
//! A memory file's checksum is the sum of its pages' checksums, each mixed with its place; a page of zeros counts nothing. So it
//! can be carried on from copy to copy by looking only at the pages that change.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, Whence, lseek};

/// Bytes of a page on every machine we run on.
pub const PAGE_BYTES: usize = 4096;
/// Pages whose entries are read at once: 256 KiB of pagemap, which stay in the processor's cache.
const ENTRIES: usize = 32 * 1024;
const ENTRY_BYTES: usize = 8;
/// Parts of a file that are remembered as used, at most, and bytes that may lie unused between two that are told as one: about what
/// the kernel reads at once anyway.
const USED_PARTS_MAX: usize = 4096;
const USED_GAP_BYTES: u64 = 64 * 1024;
/// Threads that read at the same time; the process stands still for all of it.
const READERS_MAX: usize = 8;
/// Runs read in one call, as many as the kernel takes. None is longer than a chunk, and a call of more than 2 GiB would be cut short.
const RUNS_AT_ONCE: usize = 1024;
/// Bytes moved at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Entry bits. Source: Documentation/admin-guide/mm/pagemap.rst of Linux.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Pages written into the target.
    pub written: u64,
    /// Pages that hold only zeros: holes in the target.
    pub zero: u64,
    /// To be added (wrapping) to the checksum of `file` to get the one of `target`.
    pub checksum_change: u64,
}

/// Checksum of a whole memory file. Reads its data, not its holes.
pub fn checksum(file: &File) -> io::Result<u64> {
    let mut sum = 0u64;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut at = 0i64;
    let length = file.metadata()?.len();
    loop {
        let data = match lseek(file, at, Whence::SeekData) {
            Ok(data) => data.cast_unsigned() / PAGE_BYTES as u64 * PAGE_BYTES as u64,
            Err(nix::errno::Errno::ENXIO) => return Ok(sum),
            Err(errno) => return Err(errno.into()),
        };
        let hole =
            lseek(file, data.cast_signed(), Whence::SeekHole)?.cast_unsigned().next_multiple_of(PAGE_BYTES as u64);
        let end = hole.min(length);
        let mut place = data;
        while place < end {
            let want = usize::try_from(end - place).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = &mut buffer[..want];
            file.read_exact_at(part, place)?;
            sum = sum.wrapping_add(sum_of(part, place));
            place += want as u64;
        }
        at = end.cast_signed();
    }
}

/// Sum over neighbouring pages, the first of which lies at `offset`.
fn sum_of(bytes: &[u8], offset: u64) -> u64 {
    let first = offset / PAGE_BYTES as u64;
    let pages = bytes.chunks(PAGE_BYTES).zip(first..).filter(|(page, _)| !is_zero(page));
    pages.fold(0, |sum, (page, number)| sum.wrapping_add(xxhash_rust::xxh3::xxh3_64_with_seed(page, number)))
}

/// A process and a copy of its file, ready for its pages. Made ahead of the moment, because the process has to stand still from then
/// on: what can be opened, looked up and allocated before is.
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
    /// For the private pages of `process`'s mappings of `file`, each into its own place in `target`, which must be as long. At most
    /// `held_bytes_max` of them are held until [`Taken::finish`].
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

/// Parts of a file that a process has used, read or written, since it mapped it; neighbours told as one.
#[derive(Default)]
struct UsedParts(Vec<(u64, u64)>);

impl UsedParts {
    /// Parts come in the order of the file.
    fn add(&mut self, offset: u64, bytes: u64) {
        let full = self.0.len() == USED_PARTS_MAX;
        match self.0.last_mut() {
            Some((place, length)) if (*place..=*place + *length + USED_GAP_BYTES).contains(&offset) => {
                *length = (*length).max(offset + bytes - *place);
            }
            _ if full => {}
            _ => self.0.push((offset, bytes)),
        }
    }
}

/// What a process had written at one instant, on its way into a copy of the file: some of it held in memory, the rest there.
pub struct Taken {
    writer: Writer,
    /// What is held, in pieces and in the order of `bytes`.
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

/// Memory of a process.
struct Memory {
    process: Pid,
    pagemap: File,
}

impl Memory {
    /// These runs, one after another, each thread as many bytes of them.
    fn read_all(&self, runs: &[Run], into: &mut [u8], readers: usize) -> io::Result<()> {
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

    /// In one copy; by way of `/proc/PID/mem` the kernel makes two, a page at a time.
    fn read(&self, mut runs: &[Run], mut into: &mut [u8]) -> io::Result<()> {
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
    fn still_there(&self, mappings: &[Mapping]) -> io::Result<()> {
        let Some(mapping) = mappings.first() else { return Ok(()) };
        self.pagemap.read_exact_at(&mut [0; ENTRY_BYTES], mapping.begin / PAGE_BYTES as u64 * ENTRY_BYTES as u64)
    }
}

struct Mapping {
    begin: u64,
    end: u64,
    /// Place of `begin` in the file.
    offset: u64,
}

/// Private mappings of this file. On btrfs the device shown is not the one `stat` tells, so the name counts as well.
fn mappings(process: i32, identity: &std::fs::Metadata, file: &Path) -> io::Result<Vec<Mapping>> {
    let device = identity.dev();
    let wanted = format!("{:02x}:{:02x}", nix::libc::major(device), nix::libc::minor(device));
    let name = file.display().to_string();
    let text = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let parse = |line: &str| -> Option<Mapping> {
        let mut fields = line.split_whitespace();
        let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let (its_device, its_inode) = (fields.next()?, fields.next()?);
        let same = its_inode.parse() == Ok(identity.ino()) && (its_device == wanted || line.ends_with(&name));
        if !rights.ends_with('p') || !same {
            return None;
        }
        let (begin, end) = range.split_once('-')?;
        Some(Mapping { begin: hex(begin)?, end: hex(end)?, offset: hex(offset)? })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// Neighbouring pages, and their place in the file.
#[derive(Clone, Copy)]
struct Run {
    address: u64,
    offset: u64,
    bytes: u64,
}

impl Run {
    fn length(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    fn after(self, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self { address: self.address + bytes, offset: self.offset + bytes, bytes: self.bytes - bytes }
    }

    fn first(self, bytes: usize) -> Self {
        Self { bytes: bytes as u64, ..self }
    }

    /// No longer than a chunk each.
    fn pieces(self) -> impl Iterator<Item = Self> {
        let length = self.length();
        (0..length).step_by(CHUNK_BYTES).map(move |at| self.after(at).first(CHUNK_BYTES.min(length - at)))
    }
}

/// What the pagemap tells.
#[derive(Default)]
struct Found {
    /// Private pages.
    runs: Vec<Run>,
    used: UsedParts,
}

/// Looks at all mappings, each reader at a part of each.
fn find(pagemap: &File, mappings: &[Mapping], entries: &mut [Vec<u8>]) -> io::Result<Found> {
    let mut all = Found::default();
    for mapping in mappings {
        let pages = (mapping.end - mapping.begin) / PAGE_BYTES as u64;
        let share = pages.div_ceil(entries.len() as u64).max(1) * PAGE_BYTES as u64;
        let found: Vec<io::Result<Found>> = std::thread::scope(|scope| {
            let begins = (mapping.begin..mapping.end).step_by(usize::try_from(share).unwrap_or(usize::MAX));
            let parts = begins.zip(entries.iter_mut()).map(|(begin, entries)| {
                let part = Mapping {
                    begin,
                    end: mapping.end.min(begin + share),
                    offset: mapping.offset + (begin - mapping.begin),
                };
                scope.spawn(move || find_in(pagemap, &part, entries))
            });
            let parts: Vec<_> = parts.collect();
            parts.into_iter().map(joined).collect()
        });
        for part in found {
            let Found { runs, used } = part?;
            all.runs.extend(runs);
            used.0.iter().for_each(|&(offset, bytes)| all.used.add(offset, bytes));
        }
    }
    Ok(all)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn find_in(pagemap: &File, mapping: &Mapping, entries: &mut [u8]) -> io::Result<Found> {
    const PAGE: u64 = PAGE_BYTES as u64;
    let mut found = Found::default();
    let mut address = mapping.begin;
    while address < mapping.end {
        let pages = usize::try_from((mapping.end - address) / PAGE).unwrap_or(ENTRIES).min(ENTRIES);
        let part = &mut entries[..pages * ENTRY_BYTES];
        pagemap.read_exact_at(part, address / PAGE * ENTRY_BYTES as u64)?;
        for entry in part.chunks_exact(ENTRY_BYTES) {
            let bits = u64::from_le_bytes(entry.try_into().unwrap_or_default());
            let offset = address - mapping.begin + mapping.offset;
            if bits & (PRESENT | SWAPPED) != 0 {
                found.used.add(offset, PAGE);
            }
            if bits & SWAPPED != 0 || (bits & PRESENT != 0 && bits & FILE_OR_SHARED == 0) {
                match found.runs.last_mut() {
                    Some(run) if run.address + run.bytes == address => run.bytes += PAGE,
                    _ => found.runs.push(Run { address, offset, bytes: PAGE }),
                }
            }
            address += PAGE;
        }
    }
    Ok(found)
}

struct Writer {
    base: File,
    target: File,
    copied: Copied,
    /// What the base holds where a page is replaced.
    old: Vec<u8>,
}

impl Writer {
    /// Neighbouring pages of one kind go together: one call each.
    fn pages(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
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
            let (place, length) = (offset + begin as u64, (end - begin) as u64);
            if zero {
                self.punch(place, length)?;
                self.copied.zero += length / PAGE_BYTES as u64;
            } else {
                self.target.write_all_at(&bytes[begin..end], place)?;
                self.copied.written += length / PAGE_BYTES as u64;
            }
            begin = end;
        }
        Ok(())
    }

    fn punch(&self, place: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.target, flags, place.cast_signed(), length.cast_signed()).map_err(Into::into)
    }
}

/// Compares eight bytes at a time; the compiler makes vectors of it.
fn is_zero(page: &[u8]) -> bool {
    page.chunks_exact(8).all(|word| word == [0u8; 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

    #[test]
    #[allow(unsafe_code)]
    fn only_written_pages_are_copied_and_zeros_become_holes() {
        const PAGES: usize = 64;
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let (base, copy_path) = (home.path().join("base"), home.path().join("copy"));
        let content: Vec<u8> = (0..PAGES * PAGE_BYTES).map(|i| (i / PAGE_BYTES) as u8 + 1).collect();
        std::fs::write(&base, &content).unwrap();
        let length = std::num::NonZeroUsize::new(PAGES * PAGE_BYTES).unwrap();
        let file = File::open(&base).unwrap();
        // SAFETY: a fresh private mapping of a file nobody shortens; only touched below, and unmapped at the end.
        let place = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE, &file, 0).unwrap()
        };
        // SAFETY: the mapping is as long as this and lives until the end of the test.
        let memory = unsafe { std::slice::from_raw_parts_mut(place.as_ptr().cast::<u8>(), PAGES * PAGE_BYTES) };
        memory[3 * PAGE_BYTES] = 0xee;
        memory[4 * PAGE_BYTES + 7] = 0xdd;
        memory[9 * PAGE_BYTES..10 * PAGE_BYTES].fill(0);
        std::hint::black_box(memory[20 * PAGE_BYTES]);
        let before = checksum(&file).unwrap();
        // Everything held, a part of a run held, nothing held.
        for held in [PAGES * PAGE_BYTES, PAGE_BYTES + 1, 0] {
            std::fs::write(&copy_path, &content).unwrap();
            let target = File::options().read(true).write(true).open(&copy_path).unwrap();
            let taken = Taker::new(std::process::id().cast_signed(), &base, target, held).unwrap().take().unwrap();
            assert_eq!(taken.bytes.len(), (held / PAGE_BYTES).min(3) * PAGE_BYTES);
            // Pages 3 to 20 at least; the kernel maps some around one that is only read.
            let (place, length) = taken.used()[0];
            assert!(place <= 3 * 4096 && place + length >= 21 * 4096, "{:?}", taken.used());
            let then = memory.to_vec();
            // Whoever runs again may write to what is held; it may not be seen in the copy.
            let still = if held >= 3 * PAGE_BYTES { std::mem::replace(&mut memory[3 * PAGE_BYTES], 1) } else { 0xee };
            let copied = taken.finish().unwrap();
            memory[3 * PAGE_BYTES] = still;
            assert_eq!((copied.written, copied.zero), (2, 1));
            assert_eq!(
                before.wrapping_add(copied.checksum_change),
                checksum(&File::open(&copy_path).unwrap()).unwrap()
            );
            assert_ne!(copied.checksum_change, 0);
            assert!(std::fs::read(&copy_path).unwrap() == then);
        }
        assert!(std::fs::read(&base).unwrap() == content, "the base must never change");
        // SAFETY: mapped above with this length; no reference to it is used after this.
        unsafe { munmap(place, length.get()).unwrap() };
    }

    #[test]
    #[allow(unsafe_code)]
    fn long_runs_and_many_short_ones_are_read_in_parts() {
        const BYTES: usize = 24 * 1024 * 1024;
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let (base, copy_path) = (home.path().join("base"), home.path().join("copy"));
        let file = File::create_new(&base).unwrap();
        file.set_len(BYTES as u64).unwrap();
        let length = std::num::NonZeroUsize::new(BYTES).unwrap();
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping of a file nobody shortens; only touched below, and unmapped at the end.
        let place = unsafe { mmap(None, length, rights, MapFlags::MAP_PRIVATE, &file, 0).unwrap() };
        // SAFETY: the mapping is as long as this and lives until the end of the test.
        let memory = unsafe { std::slice::from_raw_parts_mut(place.as_ptr().cast::<u8>(), BYTES) };
        // Some 2000 pages apart from each other, then 8 MiB in one run.
        let alone = (0..BYTES / 3 * 2).step_by(2 * PAGE_BYTES);
        for at in alone.chain((BYTES / 3 * 2..BYTES).step_by(PAGE_BYTES)) {
            memory[at..at + 8].copy_from_slice(&(at as u64 + 1).to_le_bytes());
        }
        for held in [BYTES, BYTES / 2, 0] {
            let target = File::options().read(true).write(true).create(true).truncate(true).open(&copy_path).unwrap();
            target.set_len(BYTES as u64).unwrap();
            let taken = Taker::new(std::process::id().cast_signed(), &base, target, held).unwrap().take().unwrap();
            let copied = taken.finish().unwrap();
            assert_eq!(copied.written, 2048 + 2048);
            assert_eq!(copied.checksum_change, checksum(&File::open(&copy_path).unwrap()).unwrap());
            assert!(std::fs::read(&copy_path).unwrap() == memory);
        }
        // SAFETY: mapped above with this length; no reference to it is used after this.
        unsafe { munmap(place, length.get()).unwrap() };
    }

    #[test]
    fn a_process_that_does_not_map_the_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let taker = Taker::new(std::process::id().cast_signed(), file.path(), file.reopen().unwrap(), 0);
        assert_eq!(taker.err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
