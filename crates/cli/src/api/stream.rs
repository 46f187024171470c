//! The API's WebSockets: a command (`exec/stream`), a process that is followed, a terminal. All bytes pass unchanged.

use base64::Engine;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use wrenn_contract::rest::processes::{ExecClientFrame, ExecServerFrame, PtyClientFrame, PtyServerFrame};
use wrenn_domain::limits::FRAME_BYTES_MAX;

use super::{ApiError, Client};

/// A WebSocket of the API.
pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A command to run, with its surroundings.
#[derive(Debug, Clone, Default)]
pub struct ExecStart {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: std::collections::BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub stdin: bool,
}

/// One message of a followed command.
#[derive(Debug)]
pub enum ExecEvent {
    Started {
        pid: u32,
    },
    Stdout(Bytes),
    Stderr(Bytes),
    Exit(i32),
    /// The command could not be run or followed; the text says why.
    Error(String),
}

/// The sending half.
pub struct ExecInput(SplitSink<Socket, Message>);

/// Opens one.
pub(super) async fn open(client: &Client, path: &str) -> Result<Socket, ApiError> {
    let mut nonce = [0u8; 16];
    getrandom::fill(&mut nonce).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
    let key = base64::engine::general_purpose::STANDARD.encode(nonce);
    let upgraded = client.upgrade(path, &key).await?;
    let config =
        WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await)
}

/// A running command.
pub struct ExecStream {
    input: Option<ExecInput>,
    events: SplitStream<Socket>,
}

impl ExecStream {
    /// Starts the command; its events follow.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn start(client: &Client, capsule: &str, start: ExecStart) -> Result<Self, ApiError> {
        let (sink, events) = open(client, &format!("/v1/capsules/{capsule}/exec/stream")).await?.split();
        let mut input = ExecInput(sink);
        let ExecStart { cmd, args, envs, cwd, user, stdin } = start;
        input.frame(&ExecClientFrame::Start { cmd, args, envs, cwd, user, stdin, binary: true }).await?;
        Ok(Self { input: Some(input), events })
    }

    /// Attaches to a process by pid or tag: recent output, and with `follow` all that comes until its exit.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn attach(client: &Client, capsule: &str, process: &str, follow: bool) -> Result<Self, ApiError> {
        let path = format!("/v1/capsules/{capsule}/processes/{process}/stream?binary=true&follow={follow}");
        let (_, events) = open(client, &path).await?.split();
        Ok(Self { input: None, events })
    }

    /// Takes the sending half, once.
    pub fn take_input(&mut self) -> Option<ExecInput> {
        self.input.take()
    }

    /// The next event; `None` when the server closed without an exit.
    ///
    /// # Errors
    /// The connection broke, or a frame cannot be read.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, ApiError> {
        loop {
            let message = match self.events.next().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ApiError::Broken { reason: error.to_string() }),
                Some(Ok(message)) => message,
            };
            match message {
                Message::Binary(data) if !data.is_empty() => {
                    let bytes = data.slice(1..);
                    return Ok(Some(match data[0] {
                        1 => ExecEvent::Stdout(bytes),
                        _ => ExecEvent::Stderr(bytes),
                    }));
                }
                Message::Text(text) => return parse(text.as_str()).map(Some),
                Message::Close(_) => return Ok(None),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

fn parse(text: &str) -> Result<ExecEvent, ApiError> {
    let frame = serde_json::from_str(text).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
    Ok(match frame {
        ExecServerFrame::Start { pid } => ExecEvent::Started { pid },
        ExecServerFrame::Stdout { data } => ExecEvent::Stdout(data.into()),
        ExecServerFrame::Stderr { data } => ExecEvent::Stderr(data.into()),
        ExecServerFrame::Exit { exit_code } => ExecEvent::Exit(exit_code),
        ExecServerFrame::Error { data } => ExecEvent::Error(data),
    })
}

impl ExecInput {
    /// Sends input bytes; waits while the command does not read.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn data(&mut self, bytes: Bytes) -> Result<(), ApiError> {
        self.message(Message::Binary(bytes)).await
    }

    /// Tells the command that no more input comes.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn eof(&mut self) -> Result<(), ApiError> {
        self.frame(&ExecClientFrame::StdinEof).await
    }

    /// Asks the server to kill the command.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn stop(&mut self) -> Result<(), ApiError> {
        self.frame(&ExecClientFrame::Stop).await
    }

    async fn frame(&mut self, frame: &ExecClientFrame) -> Result<(), ApiError> {
        let text = serde_json::to_string(frame).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        self.message(Message::Text(text.into())).await
    }

    async fn message(&mut self, message: Message) -> Result<(), ApiError> {
        self.0.send(message).await.map_err(|e| ApiError::Broken { reason: e.to_string() })
    }
}

/// One message of a terminal session.
#[derive(Debug)]
pub enum PtyEvent {
    Started {
        tag: String,
    },
    Output(Bytes),
    Exit(i32),
    /// Something did not work; the session goes on.
    Trouble(String),
    /// The session cannot be had; the text says why.
    Error(String),
    /// The connection ended, the session did not: its tag leads back.
    Lost,
}

/// The way into a terminal session.
pub struct PtyInput(SplitSink<Socket, Message>);

/// The way out of a terminal session.
pub struct PtyEvents(SplitStream<Socket>);

/// Opens a socket to a terminal session, new or there already.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn open_pty(
    client: &Client,
    capsule: &str,
    first: &PtyClientFrame,
) -> Result<(PtyInput, PtyEvents), ApiError> {
    let (sink, events) = open(client, &format!("/v1/capsules/{capsule}/pty")).await?.split();
    let mut input = PtyInput(sink);
    input.frame(first).await?;
    Ok((input, PtyEvents(events)))
}

impl PtyInput {
    /// Sends keystrokes; waits while the session does not read.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn bytes(&mut self, bytes: Bytes) -> Result<(), ApiError> {
        self.message(Message::Binary(bytes)).await
    }

    /// Sends anything else.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn frame(&mut self, frame: &PtyClientFrame) -> Result<(), ApiError> {
        let text = serde_json::to_string(frame).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        self.message(Message::Text(text.into())).await
    }

    /// Leaves in good order, so that what was typed last still counts.
    pub async fn leave(&mut self) {
        let _ = self.0.send(Message::Close(None)).await;
    }

    async fn message(&mut self, message: Message) -> Result<(), ApiError> {
        self.0.send(message).await.map_err(|e| ApiError::Broken { reason: e.to_string() })
    }
}

impl PtyEvents {
    /// The next event.
    ///
    /// # Errors
    /// The connection broke, or a frame cannot be read.
    pub async fn next(&mut self) -> Result<PtyEvent, ApiError> {
        loop {
            match self.0.next().await {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(PtyEvent::Lost),
                Some(Ok(Message::Binary(bytes))) => return Ok(PtyEvent::Output(bytes)),
                Some(Ok(Message::Text(text))) => {
                    match serde_json::from_str(&text).map_err(|e| ApiError::Broken { reason: e.to_string() })? {
                        PtyServerFrame::Started { tag, .. } => return Ok(PtyEvent::Started { tag }),
                        PtyServerFrame::Exit { exit_code } => return Ok(PtyEvent::Exit(exit_code)),
                        PtyServerFrame::Error { data, fatal: false } => return Ok(PtyEvent::Trouble(data)),
                        PtyServerFrame::Error { data, fatal: true } => return Ok(self.fatal(data).await),
                        PtyServerFrame::Ping | PtyServerFrame::Output { .. } => {}
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }

    /// A server that restarts says so when it closes.
    async fn fatal(&mut self, text: String) -> PtyEvent {
        match self.0.next().await {
            Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Restart => PtyEvent::Lost,
            _ => PtyEvent::Error(text),
        }
    }
}
