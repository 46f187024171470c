//! One QEMU process under control.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::watch;
use wrenn_linux::private_pages::Taker;
use wrenn_linux::process::Process;

use super::args::CONSOLE_BYTES;
use super::qmp::{Qmp, QmpError};
use crate::{Captured, Machine, MachineState, Record, VmmError};

/// Device state without memory is some 60 KB; a bound for a VMM gone mad.
const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const STATE_WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Names of what it holds open.
#[derive(Clone)]
struct Places {
    run_dir: PathBuf,
    /// The file its memory is mapped over.
    memory: PathBuf,
}

/// A machine.
pub struct QemuMachine {
    process: Process,
    qmp: Qmp,
    places: Mutex<Places>,
    /// What was read of the console so far: reading takes it out of QEMU's ring.
    console: Mutex<Vec<u8>>,
    down: watch::Sender<bool>,
}

impl QemuMachine {
    pub(super) fn new(process: Process, qmp: Qmp, run_dir: PathBuf, memory: PathBuf) -> Self {
        let places = Mutex::new(Places { run_dir, memory });
        Self { process, qmp, places, console: Mutex::default(), down: watch::Sender::new(false) }
    }

    fn places(&self) -> Places {
        self.places.lock().expect("no holder of this lock can panic").clone()
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
    pub(super) async fn load(&self, state: &Path) -> Result<(), VmmError> {
        const ACT: &str = "restore";
        let failed = |error: std::io::Error| VmmError::new(ACT, error);
        let socket = self.places().run_dir.join("state");
        let _ = std::fs::remove_file(&socket);
        // Nobody has to learn that the guest is here: its neighbour knows its address. Told to announce itself, a restored guest
        // spends its first milliseconds, and more half a second later, on packets nobody reads.
        self.command(ACT, "migrate-set-parameters", json!({"announce-rounds": 0})).await?;
        self.command(ACT, "migrate-incoming", json!({"uri": format!("unix:{}", socket.display())})).await?;
        let sent = async {
            let file = tokio::fs::File::open(state).await?;
            let mut stream = UnixStream::connect(&socket).await?;
            let mut file = tokio::io::AsyncReadExt::take(file, STATE_BYTES_MAX);
            tokio::io::copy(&mut file, &mut stream).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        };
        let sent = tokio::time::timeout(STATE_WAIT, sent).await.map_err(|_| VmmError::new(ACT, QmpError::Late))?;
        let _ = std::fs::remove_file(&socket);
        sent.map_err(failed)?;
        self.migration_ended(ACT).await
    }

    /// Device state by QEMU. Its command carries Xen's name and needs no Xen: it writes every device and leaves memory out.
    async fn save(&self, state: &Path) -> Result<u64, VmmError> {
        const ACT: &str = "capture";
        let failed = |error: std::io::Error| VmmError::new(ACT, error);
        let arguments = json!({"filename": state.display().to_string(), "live": false});
        self.command(ACT, "xen-save-devices-state", arguments).await?;
        let bytes = state.metadata().map_err(failed)?.len();
        if bytes == 0 || bytes > STATE_BYTES_MAX {
            return Err(VmmError::new(ACT, format!("the VMM wrote {bytes} bytes of device state")));
        }
        Ok(bytes)
    }

    async fn migration_ended(&self, act: &'static str) -> Result<(), VmmError> {
        let look = async {
            loop {
                let status = self.command(act, "query-migrate", json!({})).await?;
                match status["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let reason = status["error-desc"].as_str().unwrap_or("no reason given").to_owned();
                        return Err(VmmError::new(act, reason));
                    }
                    _ => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        tokio::time::timeout(STATE_WAIT, look).await.unwrap_or_else(|_| Err(VmmError::new(act, QmpError::Late)))
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

/// File work on a thread that may block.
async fn blocking<T: Send + 'static>(
    act: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, VmmError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| VmmError::new(act, error))?.map_err(|error| VmmError::new(act, error))
}

impl Machine for QemuMachine {
    fn record(&self) -> Record {
        let Places { run_dir, memory } = self.places();
        Record { process: self.process.identity(), run_dir, memory }
    }

    fn moved(&self, run_dir: PathBuf, memory: PathBuf) {
        *self.places.lock().expect("no holder of this lock can panic") = Places { run_dir, memory };
    }

    fn state(&self) -> BoxFuture<'_, Result<MachineState, VmmError>> {
        Box::pin(async move {
            let status = self.command("look at", "query-status", json!({})).await?;
            Ok(match status["status"].as_str() {
                Some("running") => MachineState::Running,
                Some("shutdown" | "guest-panicked" | "internal-error" | "io-error") => MachineState::Down,
                _ => MachineState::Paused,
            })
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move { self.command("pause", "stop", json!({})).await.map(drop) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move { self.command("resume", "cont", json!({})).await.map(drop) })
    }

    fn expect_capture(&self, memory: PathBuf, held_bytes_max: usize) -> BoxFuture<'_, Result<Taker, VmmError>> {
        let (pid, base) = (self.process.identity().pid, self.places().memory);
        Box::pin(blocking("get ready to capture", move || {
            let target = std::fs::File::options().read(true).write(true).open(memory)?;
            Taker::new(pid, &base, target, held_bytes_max)
        }))
    }

    fn capture(&self, state: PathBuf, taker: Taker) -> BoxFuture<'_, Result<Captured, VmmError>> {
        Box::pin(async move {
            // Memory by us: the pages the guest has written since it was started. A paused machine's VMM does not write to them, so
            // nothing here has to wait for anything else; the guest waits for all of it.
            let taking = blocking("capture", || taker.take());
            let (found, state_bytes, memory) = tokio::join!(self.state(), self.save(&state), taking);
            if found? != MachineState::Paused {
                return Err(VmmError::new("capture", "it is not paused"));
            }
            Ok(Captured { state_bytes: state_bytes?, memory: memory? })
        })
    }

    fn grow_disk(&self, bytes: u64) -> BoxFuture<'_, Result<(), VmmError>> {
        let arguments = json!({"node-name": "disk0", "size": bytes});
        Box::pin(async move { self.command("grow the disk of", "block_resize", arguments).await.map(drop) })
    }

    fn resize_balloon(&self, memory_mib: u32) -> BoxFuture<'_, Result<(), VmmError>> {
        let bytes = u64::from(memory_mib) * 1024 * 1024;
        Box::pin(async move { self.command("resize", "balloon", json!({"value": bytes})).await.map(drop) })
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
