//! QMP: one JSON object per line over a unix socket. Bounded lines, a deadline on every command.
//!
//! Our own because the published client's generated types cost more compile time than this whole crate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};

/// Bytes of one line; a full console ring in base64 is the longest.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// QEMU answers between two pieces of guest work.
const COMMAND_WAIT: Duration = Duration::from_secs(20);

/// A command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("the VMM's control socket failed")]
    Socket(#[from] std::io::Error),
    #[error("the VMM closed its control socket")]
    Closed,
    #[error("the VMM did not answer in time")]
    Late,
    #[error("the VMM refused {command}: {reason}")]
    Refused { command: String, reason: String },
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A connection. Its reader ends when this is dropped or QEMU closes.
pub struct Qmp {
    writer: tokio::sync::Mutex<(OwnedWriteHalf, u64)>,
    waiting: Waiting,
    down: watch::Receiver<bool>,
    reader: tokio::task::JoinHandle<()>,
}

impl Qmp {
    /// Connects and leaves the capability negotiation behind.
    pub async fn connect(socket: &Path) -> Result<Self, QmpError> {
        let (read, write) = UnixStream::connect(socket).await?.into_split();
        let mut lines = BufReader::new(read);
        let greeting = line(&mut lines).await?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Closed);
        }
        let waiting = Waiting::default();
        let (tell_down, down) = watch::channel(false);
        let reader = tokio::spawn(read_all(lines, Arc::clone(&waiting), tell_down));
        let qmp = Self { writer: tokio::sync::Mutex::new((write, 0)), waiting, down, reader };
        qmp.command("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Carries out one command and returns its result.
    pub async fn command(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let (tell, answer) = oneshot::channel();
        let id = {
            let mut writer = self.writer.lock().await;
            writer.1 += 1;
            let id = writer.1;
            self.waiting.lock().expect("no holder of this lock can panic").insert(id, tell);
            let mut text = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
            text.push('\n');
            writer.0.write_all(text.as_bytes()).await?;
            id
        };
        let answer = tokio::time::timeout(COMMAND_WAIT, answer).await;
        self.waiting.lock().expect("no holder of this lock can panic").remove(&id);
        let answer = answer.map_err(|_| QmpError::Late)?.map_err(|_| QmpError::Closed)?;
        if let Some(error) = answer.get("error") {
            let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
            return Err(QmpError::Refused { command: command.to_owned(), reason });
        }
        Ok(answer.get("return").cloned().unwrap_or(Value::Null))
    }

    /// Becomes true when the guest went down or the connection ended.
    pub fn down(&self) -> watch::Receiver<bool> {
        self.down.clone()
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_all(mut lines: BufReader<OwnedReadHalf>, waiting: Waiting, down: watch::Sender<bool>) {
    while let Ok(mut message) = line(&mut lines).await {
        if matches!(message["event"].as_str(), Some("SHUTDOWN" | "GUEST_PANICKED")) {
            let _ = down.send(true);
        }
        let Some(id) = message["id"].as_u64() else { continue };
        let waiter = waiting.lock().expect("no holder of this lock can panic").remove(&id);
        if let Some(waiter) = waiter {
            let _ = waiter.send(message.take());
        }
    }
    // Everybody who waits learns that no answer comes.
    waiting.lock().expect("no holder of this lock can panic").clear();
    let _ = down.send(true);
}

async fn line(lines: &mut BufReader<OwnedReadHalf>) -> Result<Value, QmpError> {
    let mut bytes = Vec::new();
    let length = lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await?;
    if length == 0 || bytes.last() != Some(&b'\n') {
        return Err(QmpError::Closed);
    }
    serde_json::from_slice(&bytes).map_err(|_| QmpError::Closed)
}
