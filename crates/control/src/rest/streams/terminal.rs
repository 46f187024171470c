//! `GET /v1/capsules/{id}/pty` (WebSocket): a session in a terminal.
//!
//! ```text
//! client: start or connect, then any number of binary frames (keystrokes), input, resize, kill, pong
//! server: started, (binary frames or output)*, exit     or error, at any moment; ping every 30 s
//! ```
//! Keystrokes may come before `started`. A session outlives its socket: its tag leads back to it, from anywhere, and its
//! recent output comes again. It ends when its first process does, or with `kill`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::Message;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt;
use tokio::time::{Instant, timeout, timeout_at};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::processes::{PtyClientFrame, PtyEncoding, PtyServerFrame};
use wrenn_domain::command::Command;
use wrenn_domain::failure::FailureKind;
use wrenn_domain::limits::{PROCESS_PIECE_BYTES, PTY_GATHER_MAX, STREAM_FAREWELL_MAX};
use wrenn_domain::names::ProcessTag;

use super::super::extract::{Caller, CapsuleId};
use super::input::{Next, Queue};
use super::socket::{Conversation, End, Incoming, Said, Session, Upgrade, message_of, serve};
use crate::answer::ApiError;
use crate::context::Context;
use crate::error::ServiceError;
use crate::random;
use crate::service::streams::{InputKind, Live, ProcessEvent, Selector, Size};

/// Columns and rows of a terminal whose client names none.
const COLS: u32 = 80;
const ROWS: u32 = 24;

/// How long the news that a session ended may take longer than the news that it takes no input.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// Open a terminal over a WebSocket
///
/// The first text frame is `{"type":"start"}` for a new session or `{"type":"connect","tag":...}` for one that is there. Then binary
/// frames are keystrokes and output, byte for byte, and text frames are as PtyClientFrame and PtyServerFrame. A session goes on when the
/// socket closes. Failures after the upgrade come as `{"type":"error"}`.
#[utoipa::path(get, path = "/v1/capsules/{id}/pty", tag = "processes", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 101, description = "WebSocket: frames as PtyClientFrame and PtyServerFrame, and binary ones"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(in crate::rest) async fn pty(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    capsule: Result<CapsuleId, ApiError>,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    serve(ctx, actor, capsule.map(|CapsuleId(id)| id), upgrade, Ok(Terminal))
}

struct Terminal;

impl Conversation for Terminal {
    const CLIENT_BEGINS: bool = true;
    const PING: Option<&'static str> = Some("{\"type\":\"ping\"}");

    async fn hold(self, session: &Session<'_>, from: &mut Incoming) -> Result<(), End> {
        let (request, encoding) = first_frame(from).await?;
        let (live, tag) = begin(session, request).await?;
        let pid = live.pid();
        session.out.json(&PtyServerFrame::Started { tag: tag.to_string(), pid }).await?;
        let input = Arc::new(Queue::default());
        let mut feeding = std::pin::pin!(feed(session, pid, &input));
        let heard = tokio::select! {
            // In any order: each waits for another party.
            done = show(session, live, encoding, &input) => return done,
            failed = &mut feeding => return failed,
            heard = hear(session, from, pid, &input) => heard,
        };
        // The client has left. What it typed before still counts.
        input.end();
        let _ = timeout(STREAM_FAREWELL_MAX, feeding).await;
        heard
    }

    fn failure(data: String) -> String {
        serde_json::to_string(&PtyServerFrame::Error { data, fatal: true }).unwrap_or_default()
    }
}

enum Request {
    Start { command: Command, size: Size },
    Connect { tag: ProcessTag },
}

async fn first_frame(from: &mut Incoming) -> Result<(Request, PtyEncoding), End> {
    match serde_json::from_str(&from.first().await?) {
        Ok(PtyClientFrame::Start { cmd, args, cols, rows, envs, cwd, user, encoding }) => {
            let size = Size { cols: if cols == 0 { COLS } else { cols }, rows: if rows == 0 { ROWS } else { rows } };
            let command = Command::parse_for_terminal(cmd, args, envs, cwd, user)?;
            Ok((Request::Start { command, size }, encoding))
        }
        Ok(PtyClientFrame::Connect { tag, encoding }) => {
            Ok((Request::Connect { tag: tag.parse::<ProcessTag>()? }, encoding))
        }
        Ok(_) => {
            Err(ApiError::invalid("the first frame must be {\"type\":\"start\"} or {\"type\":\"connect\"}").into())
        }
        Err(error) => Err(ApiError::invalid(format!("the first frame is not valid: {error}")).into()),
    }
}

async fn begin(session: &Session<'_>, request: Request) -> Result<(Live, ProcessTag), ServiceError> {
    match request {
        Request::Start { command, size } => {
            let tag = random::tag("pty")?;
            Ok((session.inside.open_terminal(command, tag.clone(), size).await?, tag))
        }
        Request::Connect { tag } => Ok((session.inside.attach(&Selector::Tag(tag.clone())).await?, tag)),
    }
}

/// Shows output to the end of the session.
async fn show(session: &Session<'_>, mut live: Live, encoding: PtyEncoding, input: &Queue) -> Result<(), End> {
    let mut shown_at = Instant::now();
    let mut typed = input.typed();
    loop {
        let mut event = Some(live.next().await?);
        if let Some(ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes)) = &mut event {
            let mut bytes = std::mem::take(bytes);
            // Who typed waits for the echo. Otherwise a frame soon after the last one is filled up first.
            let waited_for = input.typed() != typed;
            let until = (!waited_for).then(|| shown_at + PTY_GATHER_MAX);
            event = gather(&mut live, &mut bytes, until).await?;
            typed = input.typed();
            session.active();
            match encoding {
                PtyEncoding::Binary => session.out.send(Message::Binary(bytes.into())).await?,
                PtyEncoding::Base64 => {
                    session.out.json(&PtyServerFrame::Output { data: BASE64.encode(&bytes) }).await?;
                }
            }
            shown_at = Instant::now();
        }
        if let Some(ProcessEvent::Ended(ended)) = event {
            return session.out.json(&PtyServerFrame::Exit { exit_code: ended.exit_code }).await;
        }
    }
}

/// Adds whatever is there already, and output that comes until then. Returns other news that came instead.
async fn gather(live: &mut Live, bytes: &mut Vec<u8>, until: Option<Instant>) -> Result<Option<ProcessEvent>, End> {
    while bytes.len() < PROCESS_PIECE_BYTES {
        // A timer would add its own resolution, a millisecond, to every echo.
        let next = match until.filter(|until| *until > Instant::now()) {
            Some(until) => timeout_at(until, live.next()).await.ok(),
            None => live.next().now_or_never(),
        };
        let Some(event) = next else { break };
        match event? {
            ProcessEvent::Stdout(more) | ProcessEvent::Stderr(more) => bytes.extend_from_slice(&more),
            ProcessEvent::Started { .. } | ProcessEvent::Quiet => {}
            ended @ ProcessEvent::Ended(_) => return Ok(Some(ended)),
        }
    }
    Ok(None)
}

/// Takes frames until the client leaves.
async fn hear(session: &Session<'_>, from: &mut Incoming, pid: u32, input: &Queue) -> Result<(), End> {
    loop {
        match from.next().await? {
            Said::Binary(bytes) => input.push(&bytes),
            Said::Text(text) => match serde_json::from_str(&text) {
                Ok(PtyClientFrame::Input { data }) => match BASE64.decode(data) {
                    Ok(bytes) => input.push(&bytes),
                    Err(_) => complain(session, "the data of an input frame is not base64".to_owned()).await?,
                },
                Ok(PtyClientFrame::Resize { cols, rows }) => {
                    if cols > 0 && rows > 0 {
                        input.resize(Size { cols, rows });
                    }
                }
                // Past all keystrokes that wait: what does not read them is what is to be killed.
                Ok(PtyClientFrame::Kill) => {
                    if let Err(error) = session.inside.kill(pid).await {
                        complain(session, message_of(error)).await?;
                    }
                }
                Ok(PtyClientFrame::Pong) => continue,
                Ok(PtyClientFrame::Start { .. } | PtyClientFrame::Connect { .. }) => {
                    complain(session, "this session is begun already; open another socket".to_owned()).await?;
                }
                Err(error) => complain(session, format!("a frame is not valid and was ignored: {error}")).await?,
            },
        }
        session.active();
        from.wait_for(input).await;
    }
}

/// Brings keystrokes and resizes to the session in their order. Ends with the input, or when a keystroke would be lost.
async fn feed(session: &Session<'_>, pid: u32, queue: &Arc<Queue>) -> Result<(), End> {
    loop {
        match queue.next().await {
            Next::Bytes => match session.feed(pid, InputKind::Terminal, queue).await {
                Ok(()) => {}
                // Its last process has closed the terminal, and its end is on the way; or there never was a terminal.
                Err(error) if error.kind() == Some(FailureKind::Conflict) => {
                    tokio::time::sleep(END_WAIT_MAX).await;
                    complain(session, message_of(error)).await?;
                }
                Err(error) => return Err(error.into()),
            },
            Next::Resize(size) => {
                if let Err(error) = session.inside.resize(pid, size).await {
                    complain(session, message_of(error)).await?;
                }
            }
            Next::End => return Ok(()),
        }
    }
}

/// Tells what did not work; the session goes on.
async fn complain(session: &Session<'_>, data: String) -> Result<(), End> {
    session.out.json(&PtyServerFrame::Error { data, fatal: false }).await
}
