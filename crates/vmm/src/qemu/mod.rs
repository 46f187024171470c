//! Driver for QEMU's `microvm` machine, over QMP.
//!
//! The control socket is made by us and inherited, so that it is there before QEMU is. The console is a ring in QEMU's own
//! memory: it needs nobody to read it and survives us. A guest that goes down leaves QEMU waiting, so that the ring can
//! still be read.
//!
//! Memory is always mapped privately over a file, so device state and memory are captured apart: QEMU writes the state, and
//! the pages the guest has written are read from the process by the kernel's own account of them (docs/decisions/0004).

mod args;
mod blank;
mod machine;
mod qmp;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use wrenn_linux::process::{Detached, Process};
use wrenn_linux::tool;

use crate::{Acceleration, Blank, Driver, Frame, Machine, MachineState, Record, Spec, VmmError};
pub(crate) use args::{MACHINE, accelerator};
use blank::QemuBlank;
use machine::QemuMachine;
use qmp::Qmp;

/// From start to the first answer on QMP; a loaded machine without hardware virtualisation needs a second.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// An answer of a program that only prints its version.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// QEMU as found on this host.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    version: String,
    host: args::Host,
    /// Memory can be given to a machine that is started but not made yet (QEMU 7.1 and later).
    waits_for_memory: bool,
}

impl Qemu {
    /// Asks the program for its version.
    ///
    /// # Errors
    /// It is not there or prints something else.
    pub async fn find(program: &Path, acceleration: Acceleration) -> Result<Self, VmmError> {
        let printed = tool::run(program, &["--version"], VERSION_WAIT)
            .await
            .map_err(|error| VmmError::new("find a VMM for", error))?;
        let text = String::from_utf8_lossy(&printed);
        let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
        let tsc_khz = tokio::task::spawn_blocking(wrenn_linux::tsc::measure_khz)
            .await
            .map_err(|error| VmmError::new("measure the clock for", error))?;
        let version = version.ok_or_else(|| VmmError::new("read the VMM's version for", text.clone().into_owned()))?;
        let host = args::Host { acceleration, tsc_khz, maps_read_only: is_at_least(version, 8, 2) };
        let waits_for_memory = is_at_least(version, 7, 1);
        Ok(Self { program: program.to_owned(), version: version.to_owned(), host, waits_for_memory })
    }

    fn start(&self, frame: &Frame, begin: args::Begin<'_>) -> Result<(Process, PathBuf), VmmError> {
        use std::os::fd::AsRawFd;
        let failed = |error: std::io::Error| VmmError::new("prepare", error);
        let socket = socket_path(&frame.run_dir);
        let _ = std::fs::remove_file(&socket);
        let listener = OwnedFd::from(UnixListener::bind(&socket).map_err(failed)?);
        let tap = frame.tap.try_clone().map_err(failed)?;
        let output = File::options().append(true).create(true).open(&frame.log).map_err(failed)?;
        let files = args::Files { qmp: listener.as_raw_fd(), tap: tap.as_raw_fd() };
        let process = Detached {
            program: self.program.clone(),
            args: args::command_line(frame, self.host, begin, files),
            inherited: vec![listener, tap],
            output,
        }
        .start()
        .map_err(|error| VmmError::new("start", error))?;
        Ok((process, socket))
    }

    /// Returns when the VMM answers.
    async fn launch(&self, frame: &Frame, begin: args::Begin<'_>) -> Result<(Process, Qmp), VmmError> {
        let (process, socket) = self.start(frame, begin)?;
        match connect(&process, &socket).await {
            Ok(qmp) => Ok((process, qmp)),
            Err(error) => {
                // A half-started VMM must not outlive the refusal.
                let _ = process.kill(ANSWER_WAIT).await;
                let said = std::fs::read_to_string(&frame.log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it printed nothing").to_owned();
                Err(VmmError::new("reach", format!("{error}; {last}")))
            }
        }
    }
}

/// The machine with its device state in it; ended when that fails.
async fn loaded(machine: QemuMachine, state: &Path) -> Result<Arc<dyn Machine>, VmmError> {
    if let Err(error) = machine.load(state).await {
        let _ = machine.kill(ANSWER_WAIT).await;
        return Err(error);
    }
    Ok(Arc::new(machine) as Arc<dyn Machine>)
}

async fn connect(process: &Process, socket: &Path) -> Result<Qmp, qmp::QmpError> {
    tokio::select! {
        biased;
        answer = tokio::time::timeout(ANSWER_WAIT, Qmp::connect(socket)) => answer.unwrap_or(Err(qmp::QmpError::Late)),
        () = process.ended() => Err(qmp::QmpError::Closed),
    }
}

/// Whether a dotted version is this one or a later one; what cannot be read is taken to be old.
fn is_at_least(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("qmp")
}

impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn acceleration(&self) -> Acceleration {
        self.host.acceleration
    }

    fn boot(&self, spec: Spec) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            let (process, qmp) = self.launch(&spec.frame, args::Begin::Boot(&spec)).await?;
            Ok(Arc::new(QemuMachine::new(process, qmp, spec.frame.run_dir, spec.memory)) as Arc<dyn Machine>)
        })
    }

    fn restore(&self, spec: Spec, state: PathBuf) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            let (process, qmp) = self.launch(&spec.frame, args::Begin::Restore(&spec)).await?;
            loaded(QemuMachine::new(process, qmp, spec.frame.run_dir, spec.memory), &state).await
        })
    }

    fn prepare(&self, frame: Frame) -> BoxFuture<'_, Result<Option<Box<dyn Blank>>, VmmError>> {
        Box::pin(async move {
            if !self.waits_for_memory {
                return Ok(None);
            }
            let (process, qmp) = self.launch(&frame, args::Begin::Blank).await?;
            let blank = QemuBlank::new(process, qmp, &frame, self.host.maps_read_only);
            Ok(Some(Box::new(blank) as Box<dyn Blank>))
        })
    }

    fn adopt(&self, record: Record) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        Box::pin(async move {
            let Some(process) = Process::find(record.process) else { return Ok(None) };
            let qmp = connect(&process, &socket_path(&record.run_dir))
                .await
                .map_err(|error| VmmError::new("take over", error))?;
            let machine = QemuMachine::new(process, qmp, record.run_dir, record.memory);
            if machine.state().await? == MachineState::Down {
                machine.mark_down();
            }
            Ok(Some(Arc::new(machine) as Arc<dyn Machine>))
        })
    }
}
