//! Our end of a pipe or terminal: never blocks a thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// See the module.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

/// A pipe that we read: our end and the child's. Must be called on a runtime's thread.
///
/// # Errors
/// Out of descriptors.
pub fn pipe_to_read() -> io::Result<(Stream, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((Stream::new(read, Interest::READABLE)?, write))
}

/// A pipe that we write: our end and the child's. Must be called on a runtime's thread.
///
/// # Errors
/// Out of descriptors.
pub fn pipe_to_write() -> io::Result<(Stream, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((Stream::new(write, Interest::WRITABLE)?, read))
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is owned by the AsyncFd from here on and closed only after it is deregistered.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, interest) }?))
    }

    /// Returns when [`Stream::try_read`] may find something: bytes, the end or an error.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads what is there; `None` when nothing is, 0 bytes at the end. A terminal that nobody holds any more has ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self.0.try_io(Interest::READABLE, |fd| nix::unistd::read(fd, into).map_err(io::Error::from));
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(Some(0)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes all of `bytes`, waiting for as long as the other side takes. Dropped halfway, a part is written.
    ///
    /// # Errors
    /// `BrokenPipe`: nobody will ever read it. A terminal's is `EIO`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            // A full terminal whose last program is gone asks to wait, and is ready at once, for ever.
            let hung_up = ready.ready().is_write_closed();
            match ready.try_io(|fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(written) => bytes = &bytes[written?.min(bytes.len())..],
                Err(_) if hung_up => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
