//! Processes that outlive us, named so that they cannot be mistaken for others, and awaited without being their parent.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::spawn::{Command, Confinement};

/// Bytes of an environment that are searched: far above what a process with a few variables has.
const ENVIRONMENT_BYTES_MAX: u64 = 1024 * 1024;

/// Process id and start time: together they name one process for as long as the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks after the boot, field 22 of /proc/PID/stat.
    pub start_time: u64,
}

/// Detached is a confined program that outlives us, in a session of its own: no signal meant for us, and not our end, reaches it.
pub struct Detached {
    /// Path of the program in its own root.
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Environment of the process; nothing else of ours is passed on.
    pub environment: Vec<(OsString, OsString)>,
    /// Standard input, which is never read.
    pub input: File,
    /// Where its standard output and error go; never a pipe to us, which would end with us.
    pub output: File,
    pub confinement: Confinement,
    /// How gladly the kernel ends it when memory runs out: -1000 to 1000.
    pub oom_score: i16,
}

/// A process that is, or was, running.
pub struct Process {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
}

/// A step with a process failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} {what}")]
pub struct ProcessError {
    act: &'static str,
    what: String,
    source: io::Error,
}

impl Detached {
    /// Starts it. Blocks for as long as the kernel takes to load it.
    ///
    /// # Errors
    /// The program cannot be started, or not be confined.
    pub fn start(self) -> Result<Process, ProcessError> {
        let what = self.program.display().to_string();
        let failed = |source| ProcessError { act: "start", what: what.clone(), source };
        let c_text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|error| failed(error.into()));
        let program = c_text(self.program.as_os_str())?;
        let variable = |(name, value): &(OsString, OsString)| {
            let mut entry = name.clone();
            entry.push("=");
            entry.push(value);
            c_text(&entry)
        };
        let mut args = vec![program.clone()];
        for arg in &self.args {
            args.push(c_text(arg)?);
        }
        let error_output = self.output.try_clone().map_err(failed)?;
        let command = Command {
            programs: vec![program],
            args,
            env: self.environment.iter().map(variable).collect::<Result<_, _>>()?,
            directory: c"/".to_owned(),
            or_root: false,
            user: None,
            streams: [self.input.into(), self.output.into(), error_output.into()],
            terminal: false,
            oom_score: Some(self.oom_score),
            descriptors: None,
        };
        let (pid, pidfd) =
            command.start_confined(&self.confinement).map_err(|error| failed(io::Error::other(error)))?;
        // Waited for by its pidfd, and reaped there.
        let start_time = start_time(pid).ok_or_else(|| failed(io::Error::from_raw_os_error(nix::libc::ESRCH)))?;
        Process::watch(Identity { pid, start_time }, pidfd).map_err(failed)
    }
}

impl Process {
    /// Takes hold of a process started earlier, perhaps by a predecessor; `None` when it is gone or the pid is another's.
    pub fn find(identity: Identity) -> Option<Self> {
        let process = Self::hold(identity).ok()?;
        // Read after the pidfd is open: from then on the pid cannot pass to another process unnoticed.
        (start_time(identity.pid) == Some(identity.start_time)).then_some(process)
    }

    fn hold(identity: Identity) -> io::Result<Self> {
        // SAFETY: plain integers; the result is checked and owned below.
        let number = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, identity.pid, 0) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let number = i32::try_from(number).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Self::watch(identity, fd)
    }

    fn watch(identity: Identity, pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the AsyncFd from here on and closed only after it is deregistered.
        let pidfd = unsafe { AsyncFd::register(pidfd) }?;
        Ok(Self { identity, pidfd })
    }

    /// Opens its mount namespace, for [`crate::subtree::Subtree::attach_in`].
    ///
    /// # Errors
    /// It has ended.
    pub fn mount_namespace(&self) -> io::Result<File> {
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.identity.pid))?;
        // Opened under a pid that could have passed on meanwhile.
        if self.is_alive() { Ok(namespace) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
    }

    /// Identity by which it is found again.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        start_time(self.identity.pid) == Some(self.identity.start_time)
    }

    /// Returns when it has ended, and reaps it when it was our child.
    pub async fn ended(&self) {
        // A pidfd becomes readable when its process ends; an error of the poll itself can only mean the same.
        let _ = self.pidfd.readable().await;
        let _ = nix::sys::wait::waitpid(
            nix::unistd::Pid::from_raw(self.identity.pid),
            Some(nix::sys::wait::WaitPidFlag::WNOHANG),
        );
    }

    /// Sends a signal; to a process that has ended it does nothing.
    ///
    /// # Errors
    /// It is not ours to signal.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let fd = self.pidfd.get_ref().as_fd().as_raw_fd();
        // SAFETY: an open pidfd and plain integers; no siginfo is passed.
        let sent = unsafe {
            nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, fd, signal as i32, std::ptr::null::<u8>(), 0)
        };
        let error = io::Error::last_os_error();
        if sent == 0 || error.raw_os_error() == Some(nix::libc::ESRCH) {
            return Ok(());
        }
        Err(ProcessError { act: "signal", what: format!("process {}", self.identity.pid), source: error })
    }

    /// Kills it and waits until it is gone, at most `wait`.
    ///
    /// # Errors
    /// It is still there after `wait`.
    pub async fn kill(&self, wait: Duration) -> Result<(), ProcessError> {
        self.signal(Signal::SIGKILL)?;
        tokio::time::timeout(wait, self.ended()).await.map_err(|_| ProcessError {
            act: "end",
            what: format!("process {}", self.identity.pid),
            source: io::ErrorKind::TimedOut.into(),
        })
    }
}

/// Start time of a living process; a zombie counts as ended.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold blanks and parentheses; fields are counted after its last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Processes, except this one, that were started with exactly this environment entry, `NAME=value`.
pub fn with_environment(entry: &OsStr) -> Vec<Identity> {
    let has =
        |environment: &[u8]| environment.split(|byte| *byte == 0).any(|part| part == entry.as_bytes()).then_some(());
    in_environments(has).into_iter().map(|((), identity)| identity).collect()
}

/// Processes, except this one, that were started with this environment variable, each with its value.
pub fn with_environment_variable(name: &str) -> Vec<(OsString, Identity)> {
    let value = |part: &[u8]| Some(part.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_owned());
    in_environments(|environment| environment.split(|byte| *byte == 0).find_map(value))
        .into_iter()
        .map(|(value, identity)| (OsString::from_vec(value), identity))
        .collect()
}

/// Identities of all processes but this one in whose environment `find` finds something. Processes of others are left out: their
/// environment is not shown to us.
fn in_environments<T>(find: impl Fn(&[u8]) -> Option<T>) -> Vec<(T, Identity)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            if pid == std::process::id().cast_signed() {
                return None;
            }
            let mut environment = Vec::new();
            let file = File::open(entry.path().join("environ")).ok()?;
            file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment).ok()?;
            let found = find(&environment)?;
            Some((found, Identity { pid, start_time: start_time(pid)? }))
        })
        .collect()
}

/// Whether a process holds a file below `dir` open, under whatever name it was opened: what is renamed meanwhile counts where it is
/// now, what was removed where it was.
pub fn holds_file_below(pid: i32, dir: &Path) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.starts_with(dir)))
}

/// Ends this process as a power cut would: no destructor runs, nothing is flushed. For fault tests.
pub fn kill_self() -> ! {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGKILL);
    // The signal is delivered before the call returns; should it ever not be, this ends us all the same.
    std::process::abort()
}

/// Kills a process without waiting for its end.
///
/// # Errors
/// There is no such process or it is not ours to kill.
pub fn kill_now(pid: i32) -> io::Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).map_err(Into::into)
}

/// Processor time a process has used in all its threads, in clock ticks of 1/100 s; `None` when it is gone.
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Processor time a process has used in all its threads, to the nanosecond and without reading a file; `None` when it is gone.
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid)).ok()?;
    // A process that ended meanwhile is an error.
    nix::time::clock_gettime(clock).ok().map(Duration::from)
}

/// Bytes of a process's memory that are resident; `None` when it is gone.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// Bytes a process has moved to and from block devices; `None` when it is gone.
pub fn disk_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(field("read_bytes:")? + field("write_bytes:")?)
}

/// Bytes of memory only this process has: what copying its private pages writes at most; `None` when it is gone.
pub fn anonymous_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
