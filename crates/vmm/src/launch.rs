//! Starting VMM processes: confined, whichever driver they belong to, and so that they can be found again wherever this process dies.
//!
//! A VMM is where a guest arrives that breaks out of its machine, so it gets what its machine needs and nothing else
//! (docs/decisions/0019): a user of its own, no capability, namespaces of its own in the sandbox's network, and a root that holds
//! its libraries, its devices and the files of its machine. Two things tell whose it is from the instant in which the program runs
//! (docs/decisions/0013): one environment variable names the owner, and its output is a FIFO in the machine's directory.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use wrenn_linux::files;
use wrenn_linux::process::{self, Detached, Identity, Process};
use wrenn_linux::spawn::{Confinement, Root};
use wrenn_linux::subtree::{Rights, Subtree};

use crate::VmmError;

/// Environment variable of every VMM; its value is the owner's directory.
const OWNER_VARIABLE: &str = "VMM_OF_WRENN";
/// Directory in a VMM's root that it may write into; memory of its own, gone with it.
pub(crate) const SCRATCH: &str = "/run";
/// Bytes a VMM may write there: device state is some 60 KB.
const SCRATCH_BYTES: u64 = 8 * 1024 * 1024;
/// When memory runs out, a VMM goes before what serves all.
const OOM_SCORE: i16 = 500;
/// Bytes of a VMM's output that are read: what a FIFO holds.
const OUTPUT_BYTES: u64 = 64 * 1024;
/// Directories below a program's prefix that hold what it needs to start.
const RUNTIME: [&str; 4] = ["lib", "lib64", "share/qemu", "share/seabios"];
/// Links to the first two that Debian and others have in the root.
const LINKS: [&str; 2] = ["lib", "lib64"];
/// Where the dynamic linker looks up libraries.
const LINKER_CACHE: &str = "/etc/ld.so.cache";

/// Device is a character device of the kernel that a VMM uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    pub path: &'static str,
    pub major: u32,
    pub minor: u32,
}

/// Numbers of Documentation/admin-guide/devices.txt of Linux.
pub(crate) const NULL: Device = Device { path: "/dev/null", major: 1, minor: 3 };
pub(crate) const URANDOM: Device = Device { path: "/dev/urandom", major: 1, minor: 9 };
pub(crate) const KVM: Device = Device { path: "/dev/kvm", major: 10, minor: 232 };

/// Use is what a VMM does with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// File of its machine alone: it reads and writes it.
    Own,
    /// File of several machines: it reads it.
    Shared,
    /// File of several machines, mapped privately by a VMM that can open what it maps for reading and writing only.
    SharedOpenedForWriting,
}

/// GivenFile is a file of ours at a path in a VMM's root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenFile<'a> {
    pub at: &'static str,
    pub path: &'a Path,
    pub used: Use,
}

impl GivenFile<'_> {
    /// Lets `user` use the file and opens it for mounting.
    ///
    /// # Errors
    /// There is no such file, or no right to give it.
    pub(crate) fn open(self, user: u32) -> io::Result<Subtree> {
        let found = self.path.metadata()?;
        match self.used {
            Use::Own if found.uid() != user => chown(self.path, Some(user), Some(user))?,
            Use::Own => {}
            Use::Shared => allow_others(self.path, found.mode(), 0o004)?,
            Use::SharedOpenedForWriting => allow_others(self.path, found.mode(), 0o006)?,
        }
        let rights = if self.used == Use::Shared { Rights::Read } else { Rights::ReadWrite };
        Subtree::open(self.path, rights)
    }
}

/// Adds rights of others to a file that lies in a directory only we may enter.
fn allow_others(path: &Path, mode: u32, rights: u32) -> io::Result<()> {
    if mode & rights == rights {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode((mode | rights) & 0o7777))
}

/// Program of a VMM with all it is given.
pub(crate) struct Launch<'a> {
    /// Directory of whoever starts VMMs here, which tells them from another owner's.
    pub owner: &'a Path,
    pub program: &'a Path,
    pub args: Vec<OsString>,
    /// Files the VMM inherits under the numbers they have here.
    pub inherited: Vec<OwnedFd>,
    /// FIFO for what the VMM prints, made when it is not there.
    pub log: &'a Path,
    /// User and group of the VMM, nobody else's.
    pub user: u32,
    /// Network namespace of its sandbox.
    pub network: OwnedFd,
    pub devices: &'a [Device],
    pub files: Vec<GivenFile<'a>>,
    /// Empty files on which the VMM's own are mounted later.
    pub reserved: &'a [&'static str],
}

impl Launch<'_> {
    /// Starts the VMM. Blocks for some milliseconds.
    ///
    /// # Errors
    /// A file cannot be given, or the program cannot be started or confined.
    pub(crate) fn start(self) -> Result<(Process, Output), VmmError> {
        let root = self.root().map_err(|error| VmmError::new("make the file system of", error))?;
        let output = Output::open(self.log).map_err(|error| VmmError::new("open the log of", error))?;
        let failed = |error: io::Error| VmmError::new("start", error);
        let detached = Detached {
            program: self.program.to_owned(),
            args: self.args,
            environment: vec![(OWNER_VARIABLE.into(), self.owner.into())],
            input: File::open("/dev/null").map_err(failed)?,
            output: output.0.try_clone().map_err(failed)?,
            confinement: Confinement { network: self.network, user: self.user, root, inherited: self.inherited },
            oom_score: OOM_SCORE,
        };
        let process = detached.start().map_err(|error| VmmError::new("start", error))?;
        Ok((process, output))
    }

    fn root(&self) -> io::Result<Root> {
        let mut root = Root::default();
        for link in LINKS.map(|name| Path::new("/").join(name)) {
            // Where they are directories, the linker is in them.
            match std::fs::read_link(&link) {
                Ok(target) => root.link(&link, &target)?,
                Err(_) if link.is_dir() => root.give(&link, Subtree::open(&link, Rights::Execute)?)?,
                Err(_) => {}
            }
        }
        let program = self.program.canonicalize()?;
        let mut prefixes = vec![Path::new("/usr")];
        prefixes.extend(
            program.parent().and_then(Path::parent).filter(|own| *own != Path::new("/usr") && *own != Path::new("/")),
        );
        for dir in prefixes.iter().flat_map(|prefix| RUNTIME.map(|name| prefix.join(name))) {
            if dir.is_dir() {
                root.give(&dir, Subtree::open(&dir, Rights::Execute)?)?;
            }
        }
        root.give(self.program, Subtree::open(&program, Rights::Execute)?)?;
        if Path::new(LINKER_CACHE).exists() {
            root.give(Path::new(LINKER_CACHE), Subtree::open(Path::new(LINKER_CACHE), Rights::Read)?)?;
        }
        root.directory(Path::new("/dev"))?;
        for device in self.devices {
            root.device(Path::new(device.path), device.major, device.minor)?;
        }
        root.scratch(Path::new(SCRATCH), SCRATCH_BYTES, self.user)?;
        for file in &self.files {
            root.give(Path::new(file.at), file.open(self.user)?)?;
        }
        for at in self.reserved {
            root.file(Path::new(at))?;
        }
        Ok(root)
    }
}

/// Output is what a VMM prints: a FIFO, whose 64 KiB the kernel holds. What is printed when it is full is dropped, so a guest that has
/// its VMM complain without end costs nothing more.
#[derive(Debug)]
pub(crate) struct Output(File);

impl Output {
    /// Opens the FIFO, made anew where something else has its name.
    fn open(path: &Path) -> io::Result<Self> {
        // Open for both, so that there is always a reader: without one a VMM would be told that its output is broken.
        files::fifo(path).map(Self)
    }

    /// Takes the last line that was printed.
    pub(crate) fn last_line(&self) -> Option<String> {
        let mut printed = Vec::new();
        // Ends with "would block" when nothing is left.
        let _ = (&self.0).take(OUTPUT_BYTES).read_to_end(&mut printed);
        String::from_utf8_lossy(&printed).lines().last().map(str::to_owned)
    }
}

/// VMMs of an owner that hold a file below `dir` open, under whatever name it was opened: what was renamed meanwhile counts where it
/// is now, what was removed where it was. Reads all of /proc, so it may block for some milliseconds.
pub fn find_vmms(owner: &Path, dir: &Path) -> Vec<Identity> {
    let mut entry = OsString::from(OWNER_VARIABLE);
    entry.push("=");
    entry.push(owner);
    process::with_environment(&entry).into_iter().filter(|vmm| process::holds_file_below(vmm.pid, dir)).collect()
}

/// Owner's directory of every VMM on this machine with its process, for finding those whose owner is gone. Blocks as [`find_vmms`].
pub fn all_vmms() -> Vec<(PathBuf, Identity)> {
    process::with_environment_variable(OWNER_VARIABLE)
        .into_iter()
        .map(|(owner, identity)| (PathBuf::from(owner), identity))
        .collect()
}
