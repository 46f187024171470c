//! One process that envd started: what others may do with it until it is over.
//!
//! Owns its cgroup and terminal while it runs. Signals go out under the lock that its end takes too: the pid is not
//! freed before, so no signal can reach a process that got the number later.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use wrenn_contract::proto::process::ProcessConfig;
use wrenn_linux::child::signal_group;
use wrenn_linux::pty::{self, Size};
use wrenn_linux::stream::Stream;

use super::cgroups::Slot;
use super::input::Input;
use super::output::Output;

/// See the module.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub tag: Option<String>,
    /// The command as it was asked for, cut to what listings show.
    pub listed: ProcessConfig,
    pub output: Output,
    pub input: Input,
    /// The stream that started it owns it: it is not to outlive that one.
    owned: AtomicBool,
    life: Mutex<Life>,
}

#[derive(Debug)]
enum Life {
    Running { slot: Option<Slot>, terminal: Option<Arc<Stream>> },
    Over,
}

/// Why a terminal was not resized.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    #[error("the process has ended")]
    Ended,
    #[error("the process has no terminal")]
    NoTerminal,
    #[error("could not resize the terminal")]
    Resize(#[source] std::io::Error),
}

impl Process {
    /// Makes the record of a process that was just started.
    pub fn new(
        pid: u32,
        tag: Option<String>,
        listed: ProcessConfig,
        input: Input,
        slot: Option<Slot>,
        terminal: Option<Arc<Stream>>,
    ) -> Self {
        let life = Mutex::new(Life::Running { slot, terminal });
        Self { pid, tag, listed, output: Output::default(), input, owned: AtomicBool::new(false), life }
    }

    /// Ends the process and everything it started: its cgroup where it has one, its process group in any case. Does
    /// nothing to one that is over.
    pub fn kill(&self) {
        let Life::Running { slot, .. } = &*self.life() else { return };
        if let Some(Err(error)) = slot.as_ref().map(Slot::kill) {
            tracing::warn!(pid = self.pid, %error, "the cgroup could not be killed; only its process group is");
        }
        if let Err(error) = signal_group(self.group(), Signal::SIGKILL) {
            tracing::error!(pid = self.pid, %error, "the process group could not be killed");
        }
    }

    /// Whether a stream owns it.
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Relaxed)
    }

    /// Signals the process group. Does nothing to one that is over.
    ///
    /// # Errors
    /// The kernel's; there is no known one.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        match &*self.life() {
            Life::Running { .. } => signal_group(self.group(), signal),
            Life::Over => Ok(()),
        }
    }

    /// Resizes the terminal.
    ///
    /// # Errors
    /// See [`ResizeError`].
    pub fn resize(&self, size: Size) -> Result<(), ResizeError> {
        use std::os::fd::AsFd;
        match &*self.life() {
            Life::Over => Err(ResizeError::Ended),
            Life::Running { terminal: None, .. } => Err(ResizeError::NoTerminal),
            Life::Running { terminal: Some(master), .. } => {
                pty::set_size(master.as_fd(), size).map_err(ResizeError::Resize)
            }
        }
    }

    /// From here on nothing is done to it. Returns its cgroup. The pid must not be freed before.
    pub fn over(&self) -> Option<Slot> {
        match std::mem::replace(&mut *self.life(), Life::Over) {
            Life::Running { slot, .. } => slot,
            Life::Over => None,
        }
    }

    fn group(&self) -> i32 {
        self.pid.cast_signed()
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kills its process when dropped: the stream that started it is gone, and it was not to outlive that. A stream that was cut
/// because the sandbox was written down is no caller who hung up: what it started goes on.
#[derive(Debug)]
pub struct Leash {
    process: Arc<Process>,
    lives: Arc<Lives>,
    /// The life in which it was put on.
    life: u64,
}

impl Leash {
    /// Puts it on.
    pub fn new(process: Arc<Process>, lives: &Arc<Lives>) -> Self {
        process.owned.store(true, Ordering::Relaxed);
        Self { process, lives: lives.clone(), life: lives.number.load(Ordering::Relaxed) }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if !self.lives.suspended.load(Ordering::Relaxed) && self.lives.number.load(Ordering::Relaxed) == self.life {
            self.process.kill();
        }
    }
}

/// Which life of the sandbox this is, and whether it is being written down. Connections do not survive that, processes do.
#[derive(Debug, Default)]
pub struct Lives {
    number: AtomicU64,
    suspended: AtomicBool,
}

impl Lives {
    /// The sandbox may be written down any moment; whoever hangs up from here on did not want to.
    pub fn suspend(&self) {
        self.suspended.store(true, Ordering::Relaxed);
    }

    /// Lets the process go on: as the same one, or as a copy whose connections all belong to the past.
    pub fn go_on(&self, anew: bool) {
        if anew {
            self.number.fetch_add(1, Ordering::Relaxed);
        }
        self.suspended.store(false, Ordering::Relaxed);
    }
}
