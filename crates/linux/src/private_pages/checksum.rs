//! Checksum of a memory file: the sum of its pages' checksums, each mixed with its position; a page of zeros counts nothing. So it can
//! be carried on from copy to copy by looking only at the pages that change.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek};

/// Bytes of a page on every machine we run on.
pub const PAGE_BYTES: usize = 4096;
/// Bytes moved at once.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// Checksum of a whole memory file. Reads its data, not its holes.
///
/// # Errors
/// The file cannot be read.
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
        let mut position = data;
        while position < end {
            let want = usize::try_from(end - position).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = &mut buffer[..want];
            file.read_exact_at(part, position)?;
            sum = sum.wrapping_add(sum_of(part, position));
            position += want as u64;
        }
        at = end.cast_signed();
    }
}

/// Sum over neighbouring pages, the first of which lies at `offset`.
pub fn sum_of(bytes: &[u8], offset: u64) -> u64 {
    let first = offset / PAGE_BYTES as u64;
    let pages = bytes.chunks(PAGE_BYTES).zip(first..).filter(|(page, _)| !is_zero(page));
    pages.fold(0, |sum, (page, number)| sum.wrapping_add(xxhash_rust::xxh3::xxh3_64_with_seed(page, number)))
}

/// Compares eight bytes at a time; the compiler makes vectors of it.
pub fn is_zero(page: &[u8]) -> bool {
    page.chunks_exact(8).all(|word| word == [0u8; 8])
}
