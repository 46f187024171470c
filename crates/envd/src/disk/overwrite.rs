//! Writing into what is there: files their user may write but not replace, files the kernel makes up, devices, named pipes.
//!
//! The whole content is collected first, in a file without a name, so an upload that breaks off changes nothing. Copying it takes a
//! moment in which others see part of it; the kernel offers nothing better where a file cannot be replaced.
//!
//! Must never: wait without a bound for whoever reads a pipe.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use wrenn_domain::limits::UPLOAD_SILENCE_MAX;

use super::entry_path::{EntryPath, create_at, open, open_at, reopen};
use super::error::{DiskError, shown};

/// Directories where content may be collected: on the disk first, then in memory.
const COLLECT_IN: [&str; 2] = ["/var/tmp", "/tmp"];
/// Bytes copied at once. Settings below /proc are read from a single write.
const CHUNK: usize = 64 * 1024;

/// Makes a file without a name, to collect content in. Call with the actor's rights.
///
/// # Errors
/// The kernel's, when neither directory can hold one.
pub(super) fn collect() -> Result<File, Errno> {
    let mut failed = Errno::EIO;
    for dir in COLLECT_IN {
        match open(Path::new(dir), OFlag::O_PATH | OFlag::O_DIRECTORY)
            .and_then(|dir| create_at(dir, ".", OFlag::O_TMPFILE, 0o600))
        {
            Ok(file) => return Ok(file),
            Err(errno) => failed = errno,
        }
    }
    Err(failed)
}

/// Copies all of `content` into what has the name. Call with the actor's rights. Blocking, for a pipe until its reader takes it.
///
/// # Errors
/// It may not be written, the disk is full, or nobody reads the pipe.
pub(super) fn copy(content: &File, entry_path: &EntryPath) -> Result<(), DiskError> {
    let failed = || DiskError::io("write", &entry_path.path);
    // Looked at before it is opened: opening a device may set it off, and links were followed before.
    let found = open_at(&entry_path.dir, &entry_path.name, OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(failed())?;
    let stat = fstat(&found).map_err(failed())?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let flags = match kind {
        SFlag::S_IFREG => OFlag::empty(),
        SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO => OFlag::O_NONBLOCK,
        _ => return Err(DiskError::not_regular(&entry_path.path, stat.st_mode)),
    };
    let mut target = reopen(&found, flags | OFlag::O_WRONLY | OFlag::O_NOCTTY).map_err(|errno| match errno {
        Errno::ENXIO if kind == SFlag::S_IFIFO => {
            DiskError::Conflict(format!("nobody reads the named pipe {}", shown(&entry_path.path)))
        }
        other => failed()(other),
    })?;
    let bytes = copy_all(content, &mut target).map_err(DiskError::std("write", &entry_path.path))?;
    if kind == SFlag::S_IFREG {
        match nix::unistd::ftruncate(&target, i64::try_from(bytes).unwrap_or(i64::MAX)) {
            // Files the kernel makes up have no length.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => return Err(failed()(errno)),
        }
    }
    Ok(())
}

fn copy_all(mut content: &File, target: &mut File) -> std::io::Result<u64> {
    content.rewind()?;
    let (mut buffer, mut total) = (vec![0; CHUNK], 0);
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        write_all(target, &buffer[..count])?;
        total += count as u64;
    }
}

/// Writes all, waiting for a slow reader no longer than an upload may be silent.
fn write_all(target: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_writable(target)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(target: &File) -> std::io::Result<()> {
    let mut wanted = [PollFd::new(target.as_fd(), PollFlags::POLLOUT)];
    let wait = PollTimeout::try_from(UPLOAD_SILENCE_MAX).unwrap_or(PollTimeout::MAX);
    match poll(&mut wanted, wait) {
        Ok(0) => Err(ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(std::io::Error::from_raw_os_error(errno as i32)),
    }
}
