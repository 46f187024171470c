//! One directory of the cgroup version 2 hierarchy: a set of processes that can be ended as a whole.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

/// See the module.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
}

impl Cgroup {
    /// Opens the cgroup at `path`, which is made if it is not there; its parent must be.
    ///
    /// # Errors
    /// `Unsupported` when the path is in no cgroup version 2 hierarchy.
    pub fn open(path: &Path) -> io::Result<Self> {
        let parent = path.parent().unwrap_or(path);
        // Looked at first: in any other file system we would leave a stray directory.
        if fstatfs(fs::File::open(parent)?)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self { path: path.to_owned(), dir: fs::File::open(path)?.into() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends every process in it and below it with SIGKILL; none can escape by forking meanwhile.
    ///
    /// # Errors
    /// Kernels before 5.14 cannot.
    pub fn kill(&self) -> io::Result<()> {
        self.set("cgroup.kill", "1")
    }

    /// Writes one of its settings.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let mut file = fs::File::options().write(true).open(self.path.join(name))?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    /// Whether any process is in it or below it; ended ones do not count.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_populated(&self) -> io::Result<bool> {
        let events = fs::read_to_string(self.path.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Removes it, if it is empty.
    ///
    /// # Errors
    /// `ResourceBusy` when it is not.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
