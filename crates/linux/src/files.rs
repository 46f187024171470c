//! Files as Wrenn keeps them: replaced in one step, synced before they count, cloned without copying.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

nix::ioctl_write_int!(ficlone, 0x94, 9);
nix::ioctl_readwrite!(fs_ioc_fiemap, b'f', 11, Fiemap);

/// `struct fiemap` without its array. Source: include/uapi/linux/fiemap.h.
#[repr(C)]
pub struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// Pieces (extents) in which a file lies on its disk, not counting what is still to be written there.
///
/// # Errors
/// The file system does not tell.
pub fn pieces(file: &File) -> io::Result<u32> {
    // Without room for the extents the kernel only counts them.
    let mut map = Fiemap { start: 0, length: u64::MAX, flags: 0, mapped_extents: 0, extent_count: 0, reserved: 0 };
    // SAFETY: an open file, and a struct of the size the kernel reads and writes.
    unsafe { fs_ioc_fiemap(file.as_raw_fd(), &raw mut map) }?;
    Ok(map.mapped_extents)
}

/// Makes `target` share all blocks of `source`. Works on XFS and btrfs, both files on one file system.
///
/// # Errors
/// `EOPNOTSUPP` or `EXDEV` where the file system cannot; the target is then removed again.
pub fn reflink(source: &Path, target: &Path) -> io::Result<File> {
    let from = File::open(source)?;
    let to = File::options().read(true).write(true).create_new(true).mode(0o600).open(target)?;
    if let Err(error) = share(&from, &to) {
        let _ = std::fs::remove_file(target);
        return Err(error);
    }
    Ok(to)
}

/// Makes an empty file share all blocks of another one, as [`reflink`] does.
///
/// # Errors
/// The file system cannot, or has no room.
pub fn share(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open files; the argument is a plain number.
    unsafe { ficlone(to.as_raw_fd(), from.as_raw_fd() as u64) }?;
    Ok(())
}

/// Opens a FIFO for reading and writing without ever waiting; makes it, for us alone, in place of whatever else has its name. What is
/// written to it is held by the kernel, 64 KiB at most, for as long as anybody has it open.
///
/// # Errors
/// It cannot be made.
pub fn fifo(path: &Path) -> io::Result<File> {
    match path.symlink_metadata() {
        Ok(found) if found.file_type().is_fifo() => {}
        Ok(_) => std::fs::remove_file(path).and_then(|()| make_fifo(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_fifo(path)?,
        Err(error) => return Err(error),
    }
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

fn make_fifo(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600))?)
}

/// Opens a regular file in a directory that somebody hostile may write into; only the last part of the path is theirs.
///
/// # Errors
/// It is a link or a special file, or cannot be opened.
pub fn open_untrusted(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// A file without a name in this directory's file system: gone when it is closed, however the process ends, unless [`give_name`]
/// gives it one.
///
/// # Errors
/// The file system has no such files.
pub fn unnamed(directory: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(nix::libc::O_TMPFILE).mode(0o600).open(directory)
}

/// Gives a file that has none its name.
///
/// # Errors
/// The name is taken.
pub fn give_name(file: &File, path: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, AtFlags};
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW).map_err(Into::into)
}

/// Copies a file without its holes.
///
/// # Errors
/// The source cannot be read, or the target's disk is full.
pub fn copy_sparse(source: &Path, target: &Path) -> io::Result<()> {
    let to = File::options().write(true).create(true).truncate(true).mode(0o600).open(target)?;
    copy_data(&File::open(source)?, &to)
}

/// Copies what is data into an empty file, and has it written out.
///
/// # Errors
/// The source cannot be read, or the target's disk is full.
pub fn copy_data(from: &File, to: &File) -> io::Result<()> {
    use nix::unistd::{Whence, lseek};
    const CHUNK: usize = 1024 * 1024;
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut buffer = vec![0u8; CHUNK];
    let mut at = 0i64;
    loop {
        let data = match lseek(from, at, Whence::SeekData) {
            Ok(data) => data,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let hole = lseek(from, data, Whence::SeekHole)?;
        copy_range(from, to, data.cast_unsigned(), hole.cast_unsigned(), &mut buffer)?;
        at = hole;
    }
    to.sync_all()
}

/// Has the kernel begin to read these parts, position and length in bytes, into memory.
///
/// # Errors
/// The file system takes no such advice.
pub fn read_ahead(file: &File, parts: impl IntoIterator<Item = (u64, u64)>) -> io::Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    // A length of 0 would be all of the file.
    for (position, length) in parts.into_iter().filter(|&(_, length)| length > 0) {
        posix_fadvise(file, position.cast_signed(), length.cast_signed(), PosixFadviseAdvice::POSIX_FADV_WILLNEED)?;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, begin: u64, end: u64, buffer: &mut [u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = begin;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..want], at)?;
        to.write_all_at(&buffer[..want], at)?;
        at += want as u64;
    }
    Ok(())
}

/// Writes a file so that after a crash at any point it holds the old bytes or the new ones, never a part.
///
/// # Errors
/// The disk is full or fails; the old bytes are there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = write_fresh(path, bytes, "new")?;
    File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Writes a file that only has to outlast this process: a kill leaves the old bytes or the new ones, a power cut perhaps
/// neither.
///
/// # Errors
/// The disk is full or fails; the old bytes are there then.
pub fn replace_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::rename(write_fresh(path, bytes, "new")?, path)
}

/// Writes a file as [`replace_unsynced`] does, and leaves the old bytes, if there are any, beside it with the extension `old`. A power cut may leave new bytes that
/// were not written: the old ones are then still there, and that they are is the sign that they were replaced.
///
/// # Errors
/// The disk is full or fails; the old bytes are there then.
pub fn exchange_unsynced(path: &Path, bytes: &[u8], old: &str) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    let fresh = write_fresh(path, bytes, old)?;
    match renameat2(AT_FDCWD, &fresh, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
        Err(nix::errno::Errno::ENOENT) => std::fs::rename(&fresh, path),
        other => other.map_err(Into::into),
    }
}

fn write_fresh(path: &Path, bytes: &[u8], extension: &str) -> io::Result<PathBuf> {
    let fresh = path.with_extension(extension);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    Ok(fresh)
}

/// Makes names made, changed or removed in a directory outlast a power cut.
///
/// # Errors
/// The disk fails.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
