//! Server-sent events of a team, as they come.

use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use wrenn_contract::rest::events::{CAUGHT_UP, EventFrame};

use super::{ApiError, Client};

/// Bytes of one frame; the largest the server sends has a capsule with all its labels in it.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// The server says something every 30 seconds; one that was silent for longer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// A stream that is open.
pub struct EventStream {
    body: Incoming,
    buffer: BytesMut,
}

/// One message of an event stream.
#[derive(Debug)]
pub enum Message {
    /// As it came, and read.
    Frame { json: String, frame: Box<EventFrame> },
    /// A frame of a kind this program does not know yet.
    Unknown,
    /// Everything that was missed has come.
    CaughtUp,
    /// The server ended the stream, or the connection broke.
    End,
}

impl EventStream {
    /// Opens it, after the event seen last.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn open(client: &Client, last: Option<&str>) -> Result<Self, ApiError> {
        let response = client.watch("/v1/events/stream", last).await?;
        Ok(Self { body: response.into_body(), buffer: BytesMut::new() })
    }

    /// The next message.
    ///
    /// # Errors
    /// A frame has no end.
    pub async fn next(&mut self) -> Result<Message, ApiError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                if let Some(message) = read(&String::from_utf8_lossy(&block)) {
                    return Ok(message);
                }
                continue;
            }
            if self.buffer.len() > FRAME_BYTES_MAX {
                return Err(ApiError::Broken { reason: "the server sent a frame without an end".to_owned() });
            }
            match tokio::time::timeout(SILENCE_MAX, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Ok(Some(Err(_)) | None) | Err(_) => return Ok(Message::End),
            }
        }
    }
}

/// None for a comment that says nothing to us.
fn read(block: &str) -> Option<Message> {
    let lines = block.lines().filter_map(|line| line.strip_prefix("data:"));
    let data: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    if data.is_empty() {
        return is_caught_up(block).then_some(Message::CaughtUp);
    }
    let json = data.join("\n");
    Some(match serde_json::from_str(&json) {
        Ok(frame) => Message::Frame { json, frame: Box::new(frame) },
        Err(_) => Message::Unknown,
    })
}

fn is_caught_up(block: &str) -> bool {
    block.lines().filter_map(|line| line.strip_prefix(':')).any(|comment| comment.trim() == CAUGHT_UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_skipped_and_frames_of_another_kind_end_nothing() {
        assert!(read(": keepalive\n\n").is_none());
        assert!(matches!(read(": caught up\n\n"), Some(Message::CaughtUp)));
        let known =
            "id: evt-1\nevent: host.up\ndata: {\"event\":\"host.up\",\"timestamp\":\"2026-01-01T00:00:00Z\"}\n\n";
        assert!(matches!(read(known), Some(Message::Frame { .. })));
        assert!(matches!(read("event: new\ndata: {\"event\":\"new\"}\n\n"), Some(Message::Unknown)));
    }
}
