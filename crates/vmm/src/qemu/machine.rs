//! One QEMU process under control.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use wrenn_linux::process::Process;

use super::args::CONSOLE_BYTES;
use super::qmp::{Qmp, QmpError};
use crate::{Machine, MachineState, Record, VmmError};

/// Device state without memory is some 60 KB; a bound for a VMM gone mad.
const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const STATE_WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A machine.
pub struct QemuMachine {
    process: Process,
    qmp: Qmp,
    run_dir: PathBuf,
    /// What was read of the console so far: reading takes it out of QEMU's ring.
    console: Mutex<Vec<u8>>,
    down: watch::Sender<bool>,
}

impl QemuMachine {
    pub(super) fn new(process: Process, qmp: Qmp, run_dir: PathBuf) -> Self {
        Self { process, qmp, run_dir, console: Mutex::default(), down: watch::Sender::new(false) }
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

    /// Only device state travels; memory that is mapped from a file stays there.
    async fn leave_memory_out(&self, act: &'static str) -> Result<(), VmmError> {
        let capability = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
        self.command(act, "migrate-set-capabilities", capability).await.map(drop)
    }

    fn state_socket(&self) -> PathBuf {
        self.run_dir.join("state")
    }

    async fn save(&self, target: &Path) -> Result<(), VmmError> {
        const ACT: &str = "snapshot";
        let failed = |error: std::io::Error| VmmError::new(ACT, error);
        self.leave_memory_out(ACT).await?;
        let socket = self.state_socket();
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        let uri = format!("unix:{}", socket.display());
        let received = async {
            let (stream, _) = listener.accept().await?;
            let mut file = tokio::fs::File::create_new(target).await?;
            tokio::io::copy(&mut tokio::io::AsyncReadExt::take(stream, STATE_BYTES_MAX), &mut file).await?;
            file.sync_all().await
        };
        let asked = async { self.command(ACT, "migrate", json!({"uri": uri})).await };
        let both = async { tokio::try_join!(asked, async { received.await.map_err(failed) }) };
        let outcome =
            tokio::time::timeout(STATE_WAIT, both).await.unwrap_or_else(|_| Err(VmmError::new(ACT, QmpError::Late)));
        let _ = std::fs::remove_file(&socket);
        outcome?;
        self.migration_ended(ACT).await
    }

    /// Loads device state into a machine that was started for it.
    pub(super) async fn load(&self, state: &Path) -> Result<(), VmmError> {
        const ACT: &str = "restore";
        let failed = |error: std::io::Error| VmmError::new(ACT, error);
        self.leave_memory_out(ACT).await?;
        let socket = self.state_socket();
        let _ = std::fs::remove_file(&socket);
        self.command(ACT, "migrate-incoming", json!({"uri": format!("unix:{}", socket.display())})).await?;
        let sent = async {
            let mut file = tokio::fs::File::open(state).await?;
            let mut stream = UnixStream::connect(&socket).await?;
            tokio::io::copy(&mut file, &mut stream).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        };
        let sent = tokio::time::timeout(STATE_WAIT, sent).await.map_err(|_| VmmError::new(ACT, QmpError::Late))?;
        let _ = std::fs::remove_file(&socket);
        sent.map_err(failed)?;
        self.migration_ended(ACT).await
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

impl Machine for QemuMachine {
    fn record(&self) -> Record {
        Record { process: self.process.identity(), run_dir: self.run_dir.clone() }
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

    fn snapshot(&self, state: PathBuf) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move { self.save(&state).await })
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
