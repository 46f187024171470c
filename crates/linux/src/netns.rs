//! Network namespaces with names, and work done inside them.
//!
//! A thread that enters a namespace is never given back to a pool: it ends with its work, so nothing else can run in the
//! wrong network by accident.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where names of namespaces live, as iproute2 has them too, so that an operator can look inside.
const NAMES: &str = "/run/netns";
const RUN: &str = "/run";

/// A named network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: File,
}

/// A step with a namespace failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} network namespace {name}")]
pub struct NetnsError {
    act: &'static str,
    name: String,
    source: io::Error,
}

/// Makes the directory of names a mount of its own, as iproute2 does before its first name. Should iproute2 do it later, names
/// made before would lie beneath its mount and could not be taken away any more.
///
/// # Errors
/// No right to mount.
pub fn prepare() -> Result<(), NetnsError> {
    let error = |source| NetnsError { act: "prepare the directory of", name: NAMES.to_owned(), source };
    let _alone = lock_names().map_err(error)?;
    prepare_locked().map_err(error)
}

/// Keeps everybody else from preparing or releasing the directory of names: a name that is made between the two steps of another's
/// preparation lies beneath its mount, and cannot be taken away.
fn lock_names() -> io::Result<Flock<File>> {
    std::fs::create_dir_all(NAMES)?;
    // Not the directory itself: held open, it could not be unmounted.
    Flock::lock(File::open(RUN)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn prepare_locked() -> io::Result<()> {
    let share = || mount(None::<&str>, NAMES, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Ok(()) => Ok(()),
        // It is no mount yet.
        Err(nix::errno::Errno::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NAMES), NAMES, None::<&str>, bind, None::<&str>)?;
            Ok(share()?)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the mount away again when no name is left; whoever needs it next makes it anew.
pub fn release() {
    if let Ok(_alone) = lock_names() {
        release_locked();
    }
}

fn release_locked() {
    let empty = std::fs::read_dir(NAMES).is_ok_and(|mut names| names.next().is_none());
    if empty {
        // Not a mount, or in use: then it stays as it is.
        let _ = umount2(NAMES, MntFlags::empty());
    }
}

impl Netns {
    /// Makes a new namespace of this name.
    ///
    /// # Errors
    /// The name is taken, or there is no right.
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        let error = |act| move |source| NetnsError { act, name: name.to_owned(), source };
        let _alone = lock_names().map_err(error("prepare the directory of"))?;
        prepare_locked().map_err(error("prepare the directory of"))?;
        let path = path(name);
        File::create_new(&path).map_err(error("name"))?;
        let target = path.clone();
        let made = on_own_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        if let Err(source) = made {
            let _ = std::fs::remove_file(&path);
            return Err(NetnsError { act: "make", name: name.to_owned(), source });
        }
        Self::open(name)
    }

    /// Opens an existing namespace.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let error = |source| NetnsError { act: "open", name: name.to_owned(), source };
        let handle = File::open(path(name)).map_err(error)?;
        Ok(Self { name: name.to_owned(), handle })
    }

    /// Name of the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Handle of the namespace, for a process that is to run in it.
    ///
    /// # Errors
    /// This process may open no more files.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        Ok(self.handle.try_clone()?.into())
    }

    /// Runs `work` inside, on a thread of its own; blocks until it is done.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the work failed.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        within(&self.handle, work)
    }
}

/// Runs `work` inside a namespace given by an open file of it, on a thread of its own; blocks until it is done.
///
/// # Errors
/// The namespace cannot be entered, or the work failed.
pub fn within<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_own_thread(|| {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// The namespace of the calling thread, to move interfaces into.
///
/// # Errors
/// /proc is not there.
pub fn here() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Takes the name away; the namespace ends with its last user. One that is not there is no error.
///
/// # Errors
/// The name does not go.
pub fn remove(name: &str) -> Result<(), NetnsError> {
    let path = path(name);
    let error = |source| NetnsError { act: "remove", name: name.to_owned(), source };
    let _alone = lock_names().map_err(error)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(error(errno.into())),
    }
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(source)),
        _ => {
            release_locked();
            Ok(())
        }
    }
}

/// Every name that begins with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| name.starts_with(prefix)).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace died")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some make the first name, others find the directory prepared or empty again: no name may come to lie beneath the mount.
    #[test]
    fn names_come_and_go_from_many_threads_at_once() {
        let prefix = format!("wrenn-test-many-{}-", std::process::id());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let prefix = &prefix;
                scope.spawn(move || {
                    for turn in 0..10 {
                        let name = format!("{prefix}{thread}-{turn}");
                        drop(Netns::create(&name).unwrap());
                        remove(&name).unwrap();
                    }
                });
            }
        });
        assert!(list(&prefix).is_empty());
    }
}
