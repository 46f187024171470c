//! `GET /v1/capsules/{id}/exec/stream` (WebSocket): output as it comes, input as it is typed.
//!
//! ```text
//! client: start, then any number of binary frames (input), stdin_eof, stop
//! server: start, (stdout | stderr)*, exit     or error, at any moment, then close
//! ```
//! A slow client slows the process: nothing is read from the guest that was not sent on. When the socket ends, the
//! process group is killed.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::processes::{ExecClientFrame, ExecServerFrame};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{FIRST_FRAME_MAX, FRAME_BYTES_MAX, KEEPALIVE_EVERY};

use super::ApiError;
use super::exec::command;
use super::extract::{Caller, CapsuleId};
use crate::context::Context;
use crate::service::Actor;
use crate::service::exec::{self, Command, Input, News, ProcessNews};
use crate::service::standing;

/// Input frames waiting for the process at most; then the client waits.
const INPUT_FRAMES_MAX: usize = 16;

/// Run a command over a WebSocket
///
/// The first text frame is `{"type":"start","cmd":...}`. Failures after the upgrade come as `{"type":"error"}`.
#[utoipa::path(get, path = "/v1/capsules/{id}/exec/stream", tag = "processes", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 101, description = "WebSocket: frames as ExecClientFrame and ExecServerFrame"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn exec_stream(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| ApiError::invalid("this route speaks WebSocket; send an upgrade request"))?;
    let upgrade = upgrade.max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| session(ctx, actor, id, socket)))
}

struct Out {
    sink: SplitSink<WebSocket, Message>,
    binary: bool,
    stdout: Utf8Carry,
    stderr: Utf8Carry,
}

async fn session(ctx: Arc<Context>, actor: Arc<Actor>, id: SandboxId, socket: WebSocket) {
    let (sink, mut from) = socket.split();
    let mut out = Out { sink, binary: false, stdout: Utf8Carry::default(), stderr: Utf8Carry::default() };
    let stop = ctx.stop.clone();
    let talk = async {
        match converse(&ctx, &actor, id, &mut out, &mut from).await {
            Ok(()) | Err(End::Hung) => {}
            Err(End::Failed(error)) => {
                let _ = out.send(&ExecServerFrame::Error { data: error.message().to_owned() }).await;
            }
        }
    };
    let code = tokio::select! {
        () = talk => close_code::NORMAL,
        () = stop.cancelled() => close_code::RESTART,
        // A stream must not outlive what it was opened with.
        () = standing::lost(&ctx, &actor) => close_code::POLICY,
    };
    let _ = out.sink.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await;
    ctx.touches.sandbox(id);
}

enum End {
    /// The client is gone.
    Hung,
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

async fn converse(
    ctx: &Arc<Context>,
    actor: &Actor,
    id: SandboxId,
    out: &mut Out,
    from: &mut SplitStream<WebSocket>,
) -> Result<(), End> {
    let (command, stdin) = first_frame(out, from).await?;
    let mut session = exec::open(ctx, actor, id, command, stdin).await?;
    out.send(&ExecServerFrame::Start { pid: session.pid() }).await?;
    let (mut news, input) = session.split();
    let (feed, food) = mpsc::channel(INPUT_FRAMES_MAX);
    // All arms are driven until one ends the session: the end of the output, or the client's stop or hang-up. In any
    // order: each waits for another party.
    tokio::select! {
        done = pump(out, &mut news) => done,
        heard = hear(from, feed, stdin) => heard,
        never = feed_process(&input, food) => match never {},
    }
}

async fn first_frame(out: &mut Out, from: &mut SplitStream<WebSocket>) -> Result<(Command, bool), End> {
    let expected = || ApiError::invalid("the first frame must be {\"type\":\"start\",\"cmd\":...}");
    let frame = tokio::time::timeout(FIRST_FRAME_MAX, next_text(from)).await.map_err(|_| expected())?;
    match serde_json::from_str(&frame?) {
        Ok(ExecClientFrame::Start { cmd, args, envs, cwd, user, stdin, binary }) => {
            out.binary = binary;
            Ok((command(cmd, args, envs, cwd, user)?, stdin))
        }
        Ok(_) => Err(expected().into()),
        Err(error) => Err(ApiError::invalid(format!("the first frame is not valid: {error}")).into()),
    }
}

async fn next_text(from: &mut SplitStream<WebSocket>) -> Result<String, End> {
    loop {
        match from.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_))) => return Err(ApiError::invalid("the first frame must be text").into()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Hung),
        }
    }
}

/// Sends output until the process ended.
async fn pump(out: &mut Out, from: &mut News<'_>) -> Result<(), End> {
    loop {
        let news = match tokio::time::timeout(KEEPALIVE_EVERY, from.next()).await {
            Ok(news) => news?,
            Err(_) => {
                out.raw(Message::Ping(Default::default())).await?;
                continue;
            }
        };
        match news {
            ProcessNews::Started { .. } => {}
            ProcessNews::Stdout(bytes) => out.bytes(1, bytes).await?,
            ProcessNews::Stderr(bytes) => out.bytes(2, bytes).await?,
            ProcessNews::Ended(ended) => {
                out.flush_text().await?;
                return out.send(&ExecServerFrame::Exit { exit_code: ended.exit_code }).await;
            }
        }
    }
}

/// Takes input frames until the client stops or hangs up.
async fn hear(from: &mut SplitStream<WebSocket>, feed: mpsc::Sender<Food>, stdin: bool) -> Result<(), End> {
    let mut feed = stdin.then_some(feed);
    loop {
        match from.next().await {
            Some(Ok(Message::Binary(bytes))) => match &feed {
                Some(to) => {
                    let _ = to.send(Food::Bytes(bytes.into())).await;
                }
                None => return Err(ApiError::invalid("this process takes no input; start it with stdin: true").into()),
            },
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(ExecClientFrame::Stop) => return Ok(()),
                Ok(ExecClientFrame::StdinEof) => {
                    if let Some(to) = feed.take() {
                        let _ = to.send(Food::End).await;
                    }
                }
                Ok(ExecClientFrame::Start { .. }) => return Err(ApiError::invalid("it is started already").into()),
                Err(error) => return Err(ApiError::invalid(format!("a frame is not valid: {error}")).into()),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Hung),
        }
    }
}

enum Food {
    Bytes(Vec<u8>),
    End,
}

/// Feeds the process in order. Never ends: a session is not over because its input is.
async fn feed_process(input: &Input<'_>, mut food: mpsc::Receiver<Food>) -> Infallible {
    while let Some(piece) = food.recv().await {
        match piece {
            Food::Bytes(bytes) => input.feed(bytes).await,
            Food::End => input.close().await,
        }
    }
    std::future::pending().await
}

impl Out {
    async fn bytes(&mut self, kind: u8, bytes: Vec<u8>) -> Result<(), End> {
        if self.binary {
            let mut frame = Vec::with_capacity(bytes.len() + 1);
            frame.push(kind);
            frame.extend_from_slice(&bytes);
            return self.raw(Message::Binary(frame.into())).await;
        }
        let data = if kind == 1 { self.stdout.take(bytes) } else { self.stderr.take(bytes) };
        self.text(kind, data).await
    }

    /// What an unfinished character left behind.
    async fn flush_text(&mut self) -> Result<(), End> {
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        self.text(1, stdout).await?;
        self.text(2, stderr).await
    }

    async fn text(&mut self, kind: u8, data: String) -> Result<(), End> {
        if data.is_empty() {
            return Ok(());
        }
        let frame = if kind == 1 { ExecServerFrame::Stdout { data } } else { ExecServerFrame::Stderr { data } };
        self.send(&frame).await
    }

    async fn send(&mut self, frame: &ExecServerFrame) -> Result<(), End> {
        let text = serde_json::to_string(frame).map_err(|_| ApiError::invalid("a frame cannot be written"))?;
        self.raw(Message::text(text)).await
    }

    async fn raw(&mut self, message: Message) -> Result<(), End> {
        self.sink.send(message).await.map_err(|_| End::Hung)
    }
}

/// Text from bytes that come in pieces: a character cut in two is put together again; bytes that are no UTF-8 become
/// U+FFFD.
#[derive(Default)]
struct Utf8Carry(Vec<u8>);

impl Utf8Carry {
    fn take(&mut self, bytes: Vec<u8>) -> String {
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(&bytes);
        let cut = all.len() - unfinished(&all);
        self.0 = all.split_off(cut);
        String::from_utf8_lossy(&all).into_owned()
    }

    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// Bytes at the end that begin a character without ending it.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if needs > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_at_any_byte_arrives_whole() {
        let text = "aé€😀z";
        for cut in 0..=text.len() {
            let mut carry = Utf8Carry::default();
            let mut got = carry.take(text.as_bytes()[..cut].to_vec());
            got.push_str(&carry.take(text.as_bytes()[cut..].to_vec()));
            got.push_str(&carry.rest());
            assert_eq!(got, text, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_get_stuck() {
        let mut carry = Utf8Carry::default();
        assert_eq!(carry.take(vec![0xff, b'a', 0x80]), "\u{fffd}a\u{fffd}");
        assert_eq!(carry.take(vec![0xe2, 0x82]), "");
        assert_eq!(carry.rest(), "\u{fffd}");
    }
}
