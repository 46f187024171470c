//! Starting VMM processes so that they can be found again, whichever driver they belong to and wherever this process dies.
//!
//! Two things are there from the instant in which the VMM program runs, and no driver can forget them: one environment variable
//! names the owner, and standard output is the machine's log, a file in the directory the machine belongs to. Why these two and no
//! record on disk: docs/decisions/0013.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use wrenn_linux::process::{self, Detached, Identity, Process};

use crate::VmmError;

/// Environment variable of every VMM; its value is the owner's directory.
const OWNER_VARIABLE: &str = "VMM_OF_WRENN";

/// Program of a VMM with all it is started with.
pub(crate) struct Launch<'a> {
    /// Directory of whoever starts VMMs here, which tells them from another owner's.
    pub owner: &'a Path,
    pub program: &'a Path,
    pub args: Vec<OsString>,
    /// Files the VMM inherits under the numbers they have here.
    pub inherited: Vec<OwnedFd>,
    /// Log of the machine, made when it is not there.
    pub log: &'a Path,
}

impl Launch<'_> {
    /// Starts the VMM in a session of its own, with an environment of the owner's variable alone.
    ///
    /// # Errors
    /// The log cannot be opened, or the program cannot be started.
    pub(crate) fn start(self) -> Result<Process, VmmError> {
        let output = File::options().append(true).create(true).open(self.log);
        let output = output.map_err(|error| VmmError::new("open the log of", error))?;
        let detached = Detached {
            program: self.program.to_owned(),
            args: self.args,
            environment: vec![(OWNER_VARIABLE.into(), self.owner.into())],
            inherited: self.inherited,
            output,
        };
        detached.start().map_err(|error| VmmError::new("start", error))
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
