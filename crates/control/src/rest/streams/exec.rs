//! `GET /v1/capsules/{id}/exec/stream` (WebSocket): a command's output as it comes, its input as it is typed.
//!
//! ```text
//! client: start, then any number of binary frames (input), stdin_eof, stop
//! server: start, (stdout | stderr)*, exit     or error, at any moment, then close
//! ```
//! When the socket ends, the process group is killed. What is to outlive it is started in the background, or in a terminal.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::processes::{ExecClientFrame, ExecServerFrame};
use wrenn_domain::command::Command;

use super::super::extract::{Caller, CapsuleId};
use super::input::{Next, Queue};
use super::print::{Form, Until, print};
use super::socket::{Conversation, End, Incoming, Said, Session, Upgrade, serve};
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::streams::InputKind;

/// Run a command over a WebSocket
///
/// The first text frame is `{"type":"start","cmd":...}`. Failures after the upgrade come as `{"type":"error"}`. When the socket closes the command
/// is killed with its group; start it in the background if it is to go on.
#[utoipa::path(get, path = "/v1/capsules/{id}/exec/stream", tag = "processes", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 101, description = "WebSocket: frames as ExecClientFrame and ExecServerFrame"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(in crate::rest) async fn exec_stream(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    capsule: Result<CapsuleId, ApiError>,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    serve(ctx, actor, capsule.map(|CapsuleId(id)| id), upgrade, Ok(Running))
}

struct Running;

impl Conversation for Running {
    const CLIENT_BEGINS: bool = true;

    async fn hold(self, session: &Session<'_>, from: &mut Incoming) -> Result<(), End> {
        let Request { command, stdin, form } = first_frame(from).await?;
        let live = session.inside.run(command, stdin).await?;
        let (pid, input) = (live.pid(), Arc::new(Queue::default()));
        // All arms are driven until one ends the conversation: the end of the output, or the client's stop or hang-up. In
        // any order: each waits for another party.
        tokio::select! {
            done = print(session, form, live, Until::End) => done,
            heard = hear(session, from, stdin.then_some(&input)) => heard,
            never = feed(session, pid, &input) => match never {},
        }
    }

    fn failure(text: String) -> String {
        failure(text)
    }
}

/// The frame of a failure.
pub(super) fn failure(data: String) -> String {
    serde_json::to_string(&ExecServerFrame::Error { data }).unwrap_or_default()
}

struct Request {
    command: Command,
    stdin: bool,
    form: Form,
}

async fn first_frame(from: &mut Incoming) -> Result<Request, End> {
    match serde_json::from_str(&from.first().await?) {
        Ok(ExecClientFrame::Start { cmd, args, envs, cwd, user, stdin, binary }) => Ok(Request {
            command: Command::parse(cmd, args, envs, cwd, user)?,
            stdin,
            form: if binary { Form::Binary } else { Form::Text },
        }),
        Ok(_) => Err(ApiError::invalid("the first frame must be {\"type\":\"start\",\"cmd\":...}").into()),
        Err(error) => Err(ApiError::invalid(format!("the first frame is not valid: {error}")).into()),
    }
}

/// Takes input frames until the client stops or hangs up.
async fn hear(session: &Session<'_>, from: &mut Incoming, input: Option<&Queue>) -> Result<(), End> {
    let mut ended = false;
    loop {
        match from.next().await? {
            Said::Binary(bytes) => match input {
                Some(_) if ended => return Err(ApiError::invalid("input after stdin_eof").into()),
                Some(queue) => {
                    session.active();
                    queue.push(&bytes);
                    from.wait_for(queue).await;
                }
                None => return Err(ApiError::invalid("this process takes no input; start it with stdin: true").into()),
            },
            Said::Text(text) => match serde_json::from_str(&text) {
                Ok(ExecClientFrame::Stop) => return Ok(()),
                Ok(ExecClientFrame::StdinEof) => {
                    ended = true;
                    if let Some(queue) = input {
                        queue.end();
                    }
                }
                Ok(ExecClientFrame::Start { .. }) => return Err(ApiError::invalid("it is started already").into()),
                Err(error) => return Err(ApiError::invalid(format!("a frame is not valid: {error}")).into()),
            },
        }
    }
}

/// Feeds the process in order. Never ends: a session is not over because its input is. A process that closed its input is no
/// failure either: what it prints and how it ends tells the story.
async fn feed(session: &Session<'_>, pid: u32, queue: &Arc<Queue>) -> std::convert::Infallible {
    loop {
        match queue.next().await {
            Next::Bytes => {
                let _ = session.feed(pid, InputKind::Pipe, queue).await;
            }
            Next::Resize(_) => {}
            Next::End => {
                let _ = session.inside.close_input(pid).await;
                return std::future::pending().await;
            }
        }
    }
}
