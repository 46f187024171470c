//! Pages of a process's private mappings of a file, by the kernel's own account of them: `/proc/PID/maps` and `/proc/PID/pagemap`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::checksum::{CHUNK_BYTES, PAGE_BYTES};

/// Pages whose entries are read at once: 256 KiB of pagemap, which stay in the processor's cache.
pub const ENTRIES: usize = 32 * 1024;
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 8;
/// Parts of a file that are remembered as used, at most, and bytes that may lie unused between two that are told as one: about what
/// the kernel reads at once anyway.
const USED_PARTS_MAX: usize = 4096;
const USED_GAP_BYTES: u64 = 64 * 1024;

/// Bits of an entry. Source: Documentation/admin-guide/mm/pagemap.rst of Linux.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

/// UsedParts are the parts of a file that a process has used, read or written, since it mapped it; neighbours told as one.
#[derive(Default)]
pub struct UsedParts(pub Vec<(u64, u64)>);

impl UsedParts {
    /// Parts come in the order of the file.
    pub fn add(&mut self, offset: u64, bytes: u64) {
        let full = self.0.len() == USED_PARTS_MAX;
        match self.0.last_mut() {
            Some((position, length)) if (*position..=*position + *length + USED_GAP_BYTES).contains(&offset) => {
                *length = (*length).max(offset + bytes - *position);
            }
            _ if full => {}
            _ => self.0.push((offset, bytes)),
        }
    }
}

/// Mapping is a private mapping of the file.
pub struct Mapping {
    pub begin: u64,
    pub end: u64,
    /// Place of `begin` in the file.
    pub offset: u64,
}

/// Private mappings of this file in a process. On btrfs the device shown is not the one `stat` tells, so the name counts as well.
///
/// # Errors
/// The process is gone.
pub fn mappings(process: i32, identity: &std::fs::Metadata, file: &Path) -> io::Result<Vec<Mapping>> {
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

/// Run is a sequence of neighbouring pages, and their position in the file.
#[derive(Clone, Copy)]
pub struct Run {
    pub address: u64,
    pub offset: u64,
    pub bytes: u64,
}

impl Run {
    pub fn length(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    pub fn after(self, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self { address: self.address + bytes, offset: self.offset + bytes, bytes: self.bytes - bytes }
    }

    pub fn first(self, bytes: usize) -> Self {
        Self { bytes: bytes as u64, ..self }
    }

    /// No longer than a chunk each.
    pub fn pieces(self) -> impl Iterator<Item = Self> {
        let length = self.length();
        (0..length).step_by(CHUNK_BYTES).map(move |at| self.after(at).first(CHUNK_BYTES.min(length - at)))
    }
}

/// Found is the outcome of a walk over the pagemap.
#[derive(Default)]
pub struct Found {
    /// Private pages.
    pub runs: Vec<Run>,
    pub used: UsedParts,
}

/// Looks at all mappings, each reader at a part of each.
///
/// # Errors
/// The process is gone.
pub fn find(pagemap: &File, mappings: &[Mapping], entries: &mut [Vec<u8>]) -> io::Result<Found> {
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

/// Outcome of a thread, or its panic.
pub fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
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
