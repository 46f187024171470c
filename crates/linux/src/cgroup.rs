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

    /// Has every process in it and below it stop before it runs another instruction of its own, or lets them go on. Stopping takes a
    /// moment: see [`Cgroup::is_frozen`].
    ///
    /// # Errors
    /// The kernel's; `NotFound` when the cgroup is gone or is the root, which cannot be frozen.
    pub fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        self.set("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Whether it was asked to stand still, be it stopped already or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_freeze_requested(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.path.join("cgroup.freeze"))?.trim() == "1")
    }

    /// Whether every process in it and below it has stopped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_frozen(&self) -> io::Result<bool> {
        self.has_event("frozen 1")
    }

    /// Moves a process into it, with all its threads.
    ///
    /// # Errors
    /// The kernel's; `NotFound` is ESRCH: the process has ended.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Whether any process is in it or below it; ended ones do not count.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_populated(&self) -> io::Result<bool> {
        self.has_event("populated 1")
    }

    fn has_event(&self, event: &str) -> io::Result<bool> {
        let events = fs::read_to_string(self.path.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == event))
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

/// Whether a process is one of the kernel's own threads, which no cgroup may hold. A process that has ended counts as one: nothing
/// can be done with either.
pub fn is_kernel_thread(pid: u32) -> bool {
    /// The kernel's PF_KTHREAD, bit of field 9 of /proc/PID/stat. Source: include/linux/sched.h.
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields are counted from behind the name, which may hold anything: state is the third.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & KERNEL_THREAD != 0)
}
