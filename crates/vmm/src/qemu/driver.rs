//! Driver: finds QEMU, starts its processes and adopts them.

use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use wrenn_linux::process::Process;
use wrenn_linux::tool;

use super::machine::{KILL_WAIT, NAME, QemuMachine, StateStream};
use super::prestart::PrestartedQemu;
use super::qmp::{Qmp, QmpError};
use super::status::Status;
use super::{args, probe};
use crate::launch::{self, Launch, Output};
use crate::{
    Acceleration, Check, CheckVerdict, DeviceState, Driver, Found, Frame, Machine, Prestart, PrestartedVmm, Record,
    Spec, VmmConfig, VmmError,
};

/// Longest time from start to the first answer on QMP; a loaded machine without hardware virtualisation needs a second.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Longest time a program may take to print its version.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// Qemu is QEMU as found on this host.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    owner: PathBuf,
    version: String,
    host: args::Host,
    /// Memory can be given to a machine that is started but not made yet (QEMU 7.1 and later).
    waits_for_memory: bool,
}

/// Finds QEMU and what this processor can do for it.
///
/// # Errors
/// The program is not there or prints no version.
pub async fn find(config: &VmmConfig) -> Result<Found, VmmError> {
    let version = program_version(&config.qemu).await?;
    let probed = probe::acceleration(&config.qemu).await;
    let tsc_khz = tokio::task::spawn_blocking(wrenn_linux::tsc::measure_khz)
        .await
        .map_err(|error| VmmError::new("measure the clock for", error))?;
    let maps_read_only = is_at_least(&version, 8, 2);
    let driver = Qemu {
        program: config.qemu.clone(),
        owner: config.owner.clone(),
        waits_for_memory: is_at_least(&version, 7, 1),
        version,
        host: args::Host { acceleration: probed.acceleration, tsc_khz, maps_read_only },
    };
    Ok(Found { driver: Arc::new(driver), detail: probed.detail })
}

/// Checks of QEMU and of KVM, for `wrenn doctor`.
pub async fn inspect(config: &VmmConfig) -> Vec<Check> {
    let program = config.qemu.display();
    let qemu = match program_version(&config.qemu).await {
        Ok(version) => (CheckVerdict::Ok, format!("{program} {version}"), ""),
        Err(_) => (
            CheckVerdict::Failure,
            format!("{program} cannot be run"),
            "install the Debian package qemu-system-x86, or set WRENN_QEMU_BIN",
        ),
    };
    let (verdict, detail, remedy) = qemu;
    let qemu = Check { name: NAME, verdict, detail, remedy: remedy.to_owned() };
    let probed = probe::acceleration(&config.qemu).await;
    let verdict = match probed.acceleration {
        Acceleration::Hardware => CheckVerdict::Ok,
        Acceleration::Software => CheckVerdict::Warning,
    };
    vec![qemu, Check { name: "kvm", verdict, detail: probed.detail, remedy: probed.remedy }]
}

async fn program_version(program: &Path) -> Result<String, VmmError> {
    let printed = tool::run(program, &["--version"], VERSION_WAIT)
        .await
        .map_err(|error| VmmError::new("find a VMM for", error))?;
    let text = String::from_utf8_lossy(&printed);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    let version = version.ok_or_else(|| VmmError::new("read the VMM's version for", text.clone().into_owned()))?;
    Ok(version.to_owned())
}

impl Qemu {
    /// Starts a VMM. `inherited` are descriptors the arguments name. Blocks.
    fn spawn(&self, frame: &Frame, begin: args::Begin<'_>) -> Result<Spawned, VmmError> {
        use std::os::fd::AsRawFd;
        let failed = |error: std::io::Error| VmmError::new("prepare", error);
        let socket = socket_path(&frame.run_dir);
        let _ = std::fs::remove_file(&socket);
        let listener = OwnedFd::from(UnixListener::bind(&socket).map_err(failed)?);
        let tap = frame.tap.try_clone().map_err(failed)?;
        let numbers = args::Files { qmp: listener.as_raw_fd(), tap: tap.as_raw_fd() };
        // Device state comes through a pair of sockets: a path would be one that the VMM could turn elsewhere.
        let (state, theirs) = UnixStream::pair().map_err(failed)?;
        let state = StateStream { number: theirs.as_raw_fd(), stream: state };
        let kernel = [launch::NULL, launch::URANDOM, launch::KVM];
        let launch = Launch {
            owner: &self.owner,
            program: &self.program,
            args: args::command_line(frame, self.host, begin, numbers),
            inherited: vec![listener, tap, theirs.into()],
            log: &frame.log,
            user: frame.user,
            network: frame.network.try_clone().map_err(failed)?,
            devices: if self.host.acceleration == Acceleration::Hardware { &kernel } else { &kernel[..2] },
            files: args::given_files(begin, self.host.maps_read_only),
            reserved: if matches!(begin, args::Begin::Prestart) { &[args::MEMORY_PATH, args::DISK_PATH] } else { &[] },
        };
        let (process, output) = launch.start()?;
        Ok(Spawned { process, output, socket, state })
    }

    /// Starts a VMM and returns when it answers.
    async fn launch(&self, frame: &Frame, begin: args::Begin<'_>) -> Result<(Process, Qmp, StateStream), VmmError> {
        let Spawned { process, output, socket, state } = self.spawn(frame, begin)?;
        match connect(&process, &socket).await {
            Ok(qmp) => Ok((process, qmp, state)),
            Err(error) => {
                // A half-started VMM must not outlive the refusal.
                let _ = process.kill(KILL_WAIT).await;
                let last = output.last_line().unwrap_or_else(|| "it printed nothing".to_owned());
                Err(VmmError::new("reach", format!("{error}; {last}")))
            }
        }
    }
}

/// Spawned is a VMM that was started and has not answered yet.
struct Spawned {
    process: Process,
    output: Output,
    socket: PathBuf,
    state: StateStream,
}

/// Makes the file a booting machine has its memory in: all holes, the machine's alone.
fn make_memory(path: &Path, memory_mib: u32) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(u64::from(memory_mib) << 20)
}

async fn connect(process: &Process, socket: &Path) -> Result<Qmp, QmpError> {
    tokio::select! {
        biased;
        answer = tokio::time::timeout(ANSWER_WAIT, Qmp::connect(socket)) => answer.unwrap_or(Err(QmpError::Late)),
        () = process.ended() => Err(QmpError::Closed),
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
        NAME
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn acceleration(&self) -> Acceleration {
        self.host.acceleration
    }

    fn boot(&self, spec: Spec) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            args::only_disk(&spec.disks)?;
            make_memory(&spec.memory, spec.frame.memory_mib)
                .map_err(|error| VmmError::new("make memory for", error))?;
            let (process, qmp, _) = self.launch(&spec.frame, args::Begin::Boot(&spec)).await?;
            let machine = QemuMachine::new(process, qmp, spec.frame.run_dir, spec.memory, &self.version);
            Ok(Arc::new(machine) as Arc<dyn Machine>)
        })
    }

    fn restore(&self, spec: Spec, state: DeviceState) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            args::only_disk(&spec.disks)?;
            let (process, qmp, stream) = self.launch(&spec.frame, args::Begin::Restore(&spec)).await?;
            let machine = QemuMachine::new(process, qmp, spec.frame.run_dir, spec.memory, &self.version);
            machine.loaded(&state, stream).await
        })
    }

    fn prestart(&self) -> Option<&dyn Prestart> {
        self.waits_for_memory.then_some(self)
    }

    fn adopt(&self, record: Record) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        Box::pin(async move {
            if record.driver != NAME {
                return Err(VmmError::new("take over", format!("it was started by {}, not {NAME}", record.driver)));
            }
            let Some(process) = Process::find(record.process) else { return Ok(None) };
            let qmp = connect(&process, &socket_path(&record.run_dir))
                .await
                .map_err(|error| VmmError::new("take over", error))?;
            let machine = QemuMachine::new(process, qmp, record.run_dir, record.memory, &record.version);
            let machine = if record.confined { machine } else { machine.unconfined() };
            if machine.status().await? == Status::Down {
                machine.mark_down();
            }
            Ok(Some(Arc::new(machine) as Arc<dyn Machine>))
        })
    }
}

impl Prestart for Qemu {
    fn start(&self, frame: Frame) -> BoxFuture<'_, Result<Box<dyn PrestartedVmm>, VmmError>> {
        Box::pin(async move {
            let (process, qmp, state) = self.launch(&frame, args::Begin::Prestart).await?;
            let waiting = PrestartedQemu::new(process, qmp, state, &frame, self.host.maps_read_only, &self.version)?;
            Ok(Box::new(waiting) as Box<dyn PrestartedVmm>)
        })
    }
}
