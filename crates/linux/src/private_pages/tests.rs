//! Pages of this process, copied and compared.

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
    let position = unsafe {
        mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE, &file, 0).unwrap()
    };
    // SAFETY: the mapping is as long as this and lives until the end of the test.
    let memory = unsafe { std::slice::from_raw_parts_mut(position.as_ptr().cast::<u8>(), PAGES * PAGE_BYTES) };
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
        let (position, length) = taken.used()[0];
        assert!(position <= 3 * 4096 && position + length >= 21 * 4096, "{:?}", taken.used());
        let then = memory.to_vec();
        // Whoever runs again may write to what is held; it may not be seen in the copy.
        let still = if held >= 3 * PAGE_BYTES { std::mem::replace(&mut memory[3 * PAGE_BYTES], 1) } else { 0xee };
        let copied = taken.finish().unwrap();
        memory[3 * PAGE_BYTES] = still;
        assert_eq!((copied.written, copied.zero), (2, 1));
        assert_eq!(before.wrapping_add(copied.checksum_change), checksum(&File::open(&copy_path).unwrap()).unwrap());
        assert_ne!(copied.checksum_change, 0);
        assert!(std::fs::read(&copy_path).unwrap() == then);
    }
    assert!(std::fs::read(&base).unwrap() == content, "the base must never change");
    // SAFETY: mapped above with this length; no reference to it is used after this.
    unsafe { munmap(position, length.get()).unwrap() };
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
    let position = unsafe { mmap(None, length, rights, MapFlags::MAP_PRIVATE, &file, 0).unwrap() };
    // SAFETY: the mapping is as long as this and lives until the end of the test.
    let memory = unsafe { std::slice::from_raw_parts_mut(position.as_ptr().cast::<u8>(), BYTES) };
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
    unsafe { munmap(position, length.get()).unwrap() };
}

#[test]
fn a_process_that_does_not_map_the_file_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let taker = Taker::new(std::process::id().cast_signed(), file.path(), file.reopen().unwrap(), 0);
    assert_eq!(taker.err().unwrap().kind(), io::ErrorKind::NotFound);
}
