//! Machine of one QEMU process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::watch;
use wrenn_linux::process::Process;

use super::args::{CONSOLE_BYTES, DISK};
use super::capture::{PendingPages, STATE_BYTES_MAX, StateFile, blocking};
use super::qmp::{Qmp, QmpError};
use super::status::{Status, status};
use crate::{CaptureRequest, DeviceState, Machine, PendingCapture, Record, VmmError};

/// Name of this driver, in records and captures.
pub const NAME: &str = "qemu";
/// Longest time a VMM that failed may take to end.
pub const KILL_WAIT: Duration = Duration::from_secs(20);
/// Longest time device state may take to be loaded; it takes milliseconds.
const STATE_WAIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Paths are the names of what a VMM holds open.
#[derive(Clone)]
struct Paths {
    run_dir: PathBuf,
    /// File the memory is mapped over.
    memory: PathBuf,
}

/// StateStream is our end of the pair of sockets through which a VMM that was started for a restore gets its device state.
pub struct StateStream {
    pub stream: std::os::unix::net::UnixStream,
    /// Number of the VMM's end.
    pub number: i32,
}

/// QemuMachine is a machine whose QEMU answers.
pub struct QemuMachine {
    process: Process,
    qmp: Arc<Qmp>,
    /// Version of the QEMU that runs.
    version: String,
    confined: bool,
    paths: Mutex<Paths>,
    /// Console as read so far: reading takes it out of QEMU's ring.
    console: Mutex<Vec<u8>>,
    down: watch::Sender<bool>,
}

impl QemuMachine {
    pub(super) fn new(process: Process, qmp: Qmp, run_dir: PathBuf, memory: PathBuf, version: &str) -> Self {
        Self {
            process,
            qmp: Arc::new(qmp),
            version: version.to_owned(),
            confined: true,
            paths: Mutex::new(Paths { run_dir, memory }),
            console: Mutex::default(),
            down: watch::Sender::new(false),
        }
    }

    /// Makes it one whose VMM was started before there was a launcher that confines.
    pub(super) fn unconfined(self) -> Self {
        Self { confined: false, ..self }
    }

    /// Loads device state into this machine, which waits for it; the VMM is ended when that fails.
    ///
    /// # Errors
    /// The VMM refuses the state, or it is another driver's.
    pub(super) async fn loaded(self, state: &DeviceState, stream: StateStream) -> Result<Arc<dyn Machine>, VmmError> {
        let loaded = async { self.load(&state.only_file()?, stream).await };
        if let Err(error) = loaded.await {
            let _ = self.kill(KILL_WAIT).await;
            return Err(error);
        }
        Ok(Arc::new(self) as Arc<dyn Machine>)
    }

    fn paths(&self) -> Paths {
        self.paths.lock().expect("no holder of this lock can panic").clone()
    }

    pub(super) async fn status(&self) -> Result<Status, VmmError> {
        status(&self.qmp).await
    }

    /// Notes that the guest is down; an event of it was perhaps sent before we listened.
    pub(super) fn mark_down(&self) {
        let _ = self.down.send(true);
    }

    async fn command(
        &self,
        act: &'static str,
        name: &str,
        arguments: serde_json::Value,
    ) -> Result<serde_json::Value, VmmError> {
        self.qmp.command(name, arguments).await.map_err(|error| VmmError::new(act, error))
    }

    /// Loads device state into a machine that was started for it.
    async fn load(&self, state: &Path, stream: StateStream) -> Result<(), VmmError> {
        const ACT: &str = "restore";
        let failed = |error: std::io::Error| VmmError::new(ACT, error);
        let StateStream { stream, number } = stream;
        // Nobody has to learn that the guest is here: its neighbour knows its address. Told to announce itself, a restored guest
        // spends its first milliseconds, and more half a second later, on packets nobody reads.
        self.command(ACT, "migrate-set-parameters", json!({"announce-rounds": 0})).await?;
        self.command(ACT, "migrate-incoming", json!({"uri": format!("fd:{number}")})).await?;
        let sent = async {
            let file = tokio::fs::File::open(state).await?;
            stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(stream)?;
            let mut file = tokio::io::AsyncReadExt::take(file, STATE_BYTES_MAX);
            tokio::io::copy(&mut file, &mut stream).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        };
        let sent = tokio::time::timeout(STATE_WAIT, sent).await.map_err(|_| VmmError::new(ACT, QmpError::Late))?;
        sent.map_err(failed)?;
        self.migration_ended(ACT).await
    }

    async fn migration_ended(&self, act: &'static str) -> Result<(), VmmError> {
        let ended = async {
            loop {
                let status = self.command(act, "query-migrate", json!({})).await?;
                match status["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let reason = status["error-desc"].as_str().unwrap_or("no reason given").to_owned();
                        return Err(VmmError::new(act, reason));
                    }
                    _ => tokio::time::sleep(POLL_INTERVAL).await,
                }
            }
        };
        tokio::time::timeout(STATE_WAIT, ended).await.unwrap_or_else(|_| Err(VmmError::new(act, QmpError::Late)))
    }

    /// Takes what is new out of QEMU's ring.
    async fn read_console(&self) {
        let ask = json!({"device": "console0", "size": CONSOLE_BYTES, "format": "base64"});
        let Ok(answer) = self.qmp.command("ringbuf-read", ask).await else { return };
        let fresh = base64::engine::general_purpose::STANDARD.decode(answer.as_str().unwrap_or_default());
        let mut kept = self.console.lock().expect("no holder of this lock can panic");
        kept.extend_from_slice(&fresh.unwrap_or_default());
        let over = kept.len().saturating_sub(CONSOLE_BYTES);
        kept.drain(..over);
    }
}

impl Machine for QemuMachine {
    fn record(&self) -> Record {
        let Paths { run_dir, memory } = self.paths();
        Record {
            driver: NAME.to_owned(),
            version: self.version.clone(),
            confined: self.confined,
            process: self.process.identity(),
            run_dir,
            memory,
        }
    }

    fn moved(&self, run_dir: PathBuf, memory: PathBuf) {
        *self.paths.lock().expect("no holder of this lock can panic") = Paths { run_dir, memory };
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move { self.command("pause", "stop", json!({})).await.map(drop) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move { self.command("resume", "cont", json!({})).await.map(drop) })
    }

    fn begin_capture(&self, request: CaptureRequest) -> BoxFuture<'_, Result<Box<dyn PendingCapture>, VmmError>> {
        let (qmp, pid, base) = (Arc::clone(&self.qmp), self.process.identity().pid, self.paths().memory);
        let written = if self.confined { StateFile::InScratch { pid } } else { StateFile::AsNamed };
        Box::pin(async move {
            let begin = move || PendingPages::begin(qmp, pid, &base, request, written);
            let pending = blocking("begin to capture", begin).await?;
            Ok(Box::new(pending) as Box<dyn PendingCapture>)
        })
    }

    fn grow_disk(&self, disk: usize, bytes: u64) -> BoxFuture<'_, Result<(), VmmError>> {
        const ACT: &str = "grow a disk of";
        Box::pin(async move {
            if disk != 0 {
                return Err(VmmError::new(ACT, format!("it has no disk {disk}")));
            }
            self.command(ACT, "block_resize", json!({"node-name": DISK, "size": bytes})).await.map(drop)
        })
    }

    fn console(&self) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async move {
            self.read_console().await;
            self.console.lock().expect("no holder of this lock can panic").clone()
        })
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (mut event, mut noted) = (self.qmp.down(), self.down.subscribe());
            tokio::select! {
                biased;
                () = self.process.ended() => {}
                _ = event.wait_for(|down| *down) => {}
                _ = noted.wait_for(|down| *down) => {}
            }
        })
    }

    fn kill(&self, wait: Duration) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move { self.process.kill(wait).await.map_err(|error| VmmError::new("end", error)) })
    }
}
