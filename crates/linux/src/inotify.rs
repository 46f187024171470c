//! One inotify instance, read without blocking a thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

pub use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};

/// Asks that files which lost their name are heard of no more; nix has no word for it.
pub const IN_EXCL_UNLINK: AddWatchFlags = AddWatchFlags::from_bits_retain(libc::IN_EXCL_UNLINK);

/// See the module.
pub struct Instance(AsyncFd<Numbered>);

/// `Inotify` with the number tokio wants.
struct Numbered(Inotify);

impl AsRawFd for Numbered {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Instance {
    /// Makes one. Call within a tokio runtime.
    ///
    /// # Errors
    /// The user has no instance left, or the process no descriptor.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the descriptor is owned by the `Inotify` in there, which is neither replaced nor given out, and so is
        // the same open file until the `AsyncFd` is dropped.
        let fd = unsafe { AsyncFd::register(Numbered(inotify)) }.map_err(io::Error::from)?;
        Ok(Self(fd))
    }

    /// Watches a file or directory; one that is watched already gets the new mask and keeps its descriptor.
    ///
    /// # Errors
    /// The kernel's; `ENOSPC` when the user has no watch left.
    pub fn add(&self, path: &Path, mask: AddWatchFlags) -> Result<WatchDescriptor, Errno> {
        self.0.get_ref().0.add_watch(path, mask)
    }

    /// Ends a watch. `IN_IGNORED` is its last event.
    ///
    /// # Errors
    /// `EINVAL` when it has ended already.
    pub fn remove(&self, watch: WatchDescriptor) -> Result<(), Errno> {
        self.0.get_ref().0.rm_watch(watch)
    }

    /// Events since the last call, in order. An empty answer means that everything up to now has been read; the next call waits.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn read(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| fd.get_ref().0.read_events().map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => return read,
                Err(_would_block) => return Ok(Vec::new()),
            }
        }
    }
}
