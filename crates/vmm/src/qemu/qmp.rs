//! QMP: one JSON object per line over a unix socket. Bounded lines, a deadline on every command.
//!
//! Our own because the published client's generated types cost more compile time than this whole crate. QEMU may be controlled by
//! its guest: every line is parsed into a [`Message`] before anything else is done with it.

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

/// Failure of a command over QMP.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("the VMM's control socket failed")]
    Socket(#[from] std::io::Error),
    #[error("the VMM closed its control socket")]
    Closed,
    #[error("the VMM sent something that is not QMP")]
    Malformed(#[source] serde_json::Error),
    #[error("the VMM's control socket does not greet as QMP does")]
    NoGreeting,
    #[error("the VMM did not answer in time")]
    Late,
    #[error("the VMM refused {command}: {reason}")]
    Refused { command: String, reason: String },
}

/// Message is one line QEMU sent, as far as this driver needs to know it.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// First line of every connection.
    Greeting,
    /// Outcome of the command with this number: its result, or why it was refused.
    Answer { id: u64, outcome: Result<Value, String> },
    /// Event: the guest switched itself off, rebooted or panicked.
    GuestDown,
    /// Event or answer that nobody waits for.
    Other,
}

impl Message {
    /// Parses one line.
    ///
    /// # Errors
    /// The line is not one JSON object.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(line)?;
        if fields.contains_key("QMP") {
            return Ok(Self::Greeting);
        }
        if let Some(event) = fields.get("event") {
            let down = matches!(event.as_str(), Some("SHUTDOWN" | "GUEST_PANICKED"));
            return Ok(if down { Self::GuestDown } else { Self::Other });
        }
        let Some(id) = fields.get("id").and_then(Value::as_u64) else { return Ok(Self::Other) };
        let outcome = match fields.get("error") {
            Some(error) => {
                let reason = error.get("desc").and_then(Value::as_str).filter(|text| !text.is_empty());
                Err(reason.unwrap_or("no reason given").to_owned())
            }
            None => Ok(fields.remove("return").unwrap_or(Value::Null)),
        };
        Ok(Self::Answer { id, outcome })
    }
}

type Outcome = Result<Value, String>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>;

/// Qmp is one connection. Its reader ends when this is dropped or QEMU closes.
pub struct Qmp {
    writer: tokio::sync::Mutex<(OwnedWriteHalf, u64)>,
    waiting: Waiting,
    down: watch::Receiver<bool>,
    reader: tokio::task::JoinHandle<()>,
}

impl Qmp {
    /// Connects and leaves the capability negotiation behind.
    ///
    /// # Errors
    /// Nobody listens at the socket, or who listens does not speak QMP.
    pub async fn connect(socket: &Path) -> Result<Self, QmpError> {
        let (read, write) = UnixStream::connect(socket).await?.into_split();
        let mut lines = BufReader::new(read);
        if next_message(&mut lines).await? != Message::Greeting {
            return Err(QmpError::NoGreeting);
        }
        let waiting = Waiting::default();
        let (report_down, down) = watch::channel(false);
        let reader = tokio::spawn(read_all(lines, Arc::clone(&waiting), report_down));
        let qmp = Self { writer: tokio::sync::Mutex::new((write, 0)), waiting, down, reader };
        qmp.command("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Carries out one command and returns its result.
    ///
    /// # Errors
    /// QEMU refused the command, did not answer in time, or is gone.
    pub async fn command(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut writer = self.writer.lock().await;
            writer.1 += 1;
            let id = writer.1;
            self.waiting.lock().expect("no holder of this lock can panic").insert(id, sender);
            let mut text = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
            text.push('\n');
            writer.0.write_all(text.as_bytes()).await?;
            id
        };
        let answer = tokio::time::timeout(COMMAND_WAIT, answer).await;
        self.waiting.lock().expect("no holder of this lock can panic").remove(&id);
        let answer = answer.map_err(|_| QmpError::Late)?.map_err(|_| QmpError::Closed)?;
        answer.map_err(|reason| QmpError::Refused { command: command.to_owned(), reason })
    }

    /// Receiver of a value that becomes true when the guest went down or the connection ended.
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
    while let Ok(message) = next_message(&mut lines).await {
        match message {
            Message::GuestDown => drop(down.send(true)),
            Message::Answer { id, outcome } => {
                let waiter = waiting.lock().expect("no holder of this lock can panic").remove(&id);
                if let Some(waiter) = waiter {
                    let _ = waiter.send(outcome);
                }
            }
            Message::Greeting | Message::Other => {}
        }
    }
    // Everybody who waits learns that no answer comes.
    waiting.lock().expect("no holder of this lock can panic").clear();
    let _ = down.send(true);
}

async fn next_message(lines: &mut BufReader<OwnedReadHalf>) -> Result<Message, QmpError> {
    let mut bytes = Vec::new();
    let length = lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await?;
    if length == 0 || bytes.last() != Some(&b'\n') {
        return Err(QmpError::Closed);
    }
    Message::parse(&bytes).map_err(QmpError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_told_apart() {
        let answer = |id, outcome| Message::Answer { id, outcome };
        for (line, expected) in [
            (r#"{"QMP": {"version": {}, "capabilities": []}}"#, Message::Greeting),
            (r#"{"return": {"running": true}, "id": 3}"#, answer(3, Ok(json!({"running": true})))),
            (r#"{"id": 4}"#, answer(4, Ok(Value::Null))),
            (r#"{"id": 5, "error": {"class": "GenericError", "desc": "no"}}"#, answer(5, Err("no".into()))),
            (r#"{"id": 6, "error": 1}"#, answer(6, Err("no reason given".into()))),
            (r#"{"event": "SHUTDOWN", "data": {"guest": true}}"#, Message::GuestDown),
            (r#"{"event": "GUEST_PANICKED"}"#, Message::GuestDown),
            (r#"{"event": "RESUME"}"#, Message::Other),
            (r#"{"event": 7}"#, Message::Other),
            (r#"{"return": {}, "id": "qemu's own"}"#, Message::Other),
            ("{}", Message::Other),
        ] {
            assert_eq!(Message::parse(line.as_bytes()).unwrap(), expected, "{line}");
        }
        for malformed in ["", "[]", "7", "{", "{\"id\": 1}{", "\u{0}"] {
            assert!(Message::parse(malformed.as_bytes()).is_err(), "{malformed}");
        }
    }
}
