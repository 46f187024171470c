//! Running a command: foreground (collected, bounded, killed on time-out) and background. As a stream: streams.rs.
//!
//! Dropping any of these futures ends the process: the stream closes and envd kills the group.

use std::time::{Duration, Instant};

use connectrpc::ErrorCode;
use wrenn_contract::proto::process::ProcessConfig;
use wrenn_domain::command::Command;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{EXEC_OUTPUT_BYTES_MAX, EXEC_STDIN_BYTES_MAX};
use wrenn_domain::names::ProcessTag;

use super::{credential_watch, lookup};
use crate::actor::{Actor, Credential};
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
use crate::fleet::guest::{Ended, ProcessEvent, ProcessStream, Start};
use crate::fleet::{FleetError, GuestClient};
use crate::state::pool::Permit;

/// Output of a foreground command, and how it ended.
pub struct Output {
    pub printed: Printed,
    pub exit_code: i32,
    pub took: Duration,
}

/// How a foreground command came to its end.
pub enum Outcome {
    Ended(Output),
    /// The command printed too much or took too long, and was killed.
    Killed {
        why: Failure,
        /// Output it had printed until then.
        printed: Printed,
    },
}

/// Output of a command, as far as it came.
pub struct Printed {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Bytes that are held for the output until it was sent.
    pub held: Permit<Credential>,
}

/// Runs to the end and collects the output.
///
/// # Errors
/// When the sandbox does not run, the command cannot be started, prints too much or takes too long, or the credential ends.
pub async fn run(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    command: Command,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
) -> Result<Outcome, ServiceError> {
    if stdin.as_ref().is_some_and(|bytes| bytes.len() > EXEC_STDIN_BYTES_MAX) {
        return Err(Failure::new(
            FailureKind::TooLarge,
            format!("stdin is larger than {EXEC_STDIN_BYTES_MAX} bytes; write a file first, or use exec/stream"),
        )
        .into());
    }
    let guest = lookup::guest(ctx, actor, id).await?;
    let began = Instant::now();
    let held = ctx.permits.answer_bytes.take_many(actor.credential.clone(), 0).map_err(|_| outputs_full())?;
    let mut printed = Printed { stdout: Vec::new(), stderr: Vec::new(), held };
    let work = credential_watch::while_held(ctx, actor, collect(&guest, command, stdin, &mut printed));
    let ended = match tokio::time::timeout(timeout, work).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => return Err(lookup::explain(ctx, actor, id, error).await),
        Err(_) => Err(Failure::new(
            FailureKind::Timeout,
            format!(
                "the command took longer than {} s and was killed; raise timeout_sec or use background",
                timeout.as_secs()
            ),
        )),
    };
    ctx.touches.sandbox(id);
    Ok(match ended {
        Ok(Ended { exit_code, .. }) => Outcome::Ended(Output { printed, exit_code, took: began.elapsed() }),
        Err(why) => Outcome::Killed { why, printed },
    })
}

/// Starts a process that outlives the call. Answers its pid.
///
/// # Errors
/// When the sandbox does not run or the process cannot be started.
pub async fn start(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    command: Command,
    tag: ProcessTag,
) -> Result<u32, ServiceError> {
    let guest = lookup::guest(ctx, actor, id).await?;
    let start = Start { config: config(command), tag: Some(tag), terminal: None, stdin: false, detach: true };
    let begin = async { pid_of(&mut guest.start(start).await.map_err(start_error)?).await };
    tokio::time::timeout(Duration::from_secs(30), begin).await.map_err(|_| guest_error(FleetError::TimedOut))?
}

async fn collect(
    guest: &GuestClient,
    command: Command,
    stdin: Option<Vec<u8>>,
    printed: &mut Printed,
) -> Result<Result<Ended, Failure>, ServiceError> {
    let start = Start { config: config(command), tag: None, terminal: None, stdin: stdin.is_some(), detach: false };
    let mut stream = guest.start(start).await.map_err(start_error)?;
    let Some(input) = stdin else { return gather(&mut stream, printed).await };
    let pid = pid_of(&mut stream).await?;
    let feed = async {
        // A process may end or close its input without reading it all: its output tells what happened.
        if !input.is_empty() && guest.send_input(pid, input).await.is_err() {
            return;
        }
        let _ = guest.close_stdin(pid).await;
    };
    let gather = gather(&mut stream, printed);
    tokio::pin!(feed, gather);
    tokio::select! {
        // The end of the process is the end of the call, fed or not.
        biased;
        done = &mut gather => done,
        () = &mut feed => gather.await,
    }
}

/// Collects the output. A failure inside: the command printed too much and is killed with its stream.
async fn gather(stream: &mut ProcessStream, printed: &mut Printed) -> Result<Result<Ended, Failure>, ServiceError> {
    let Printed { stdout, stderr, held } = printed;
    while let Some(event) = stream.next().await.map_err(start_error)? {
        match event {
            ProcessEvent::Started { .. } | ProcessEvent::Quiet => {}
            ProcessEvent::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            ProcessEvent::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            ProcessEvent::Ended(ended) => return Ok(Ok(ended)),
        }
        held.resize(stdout.len() + stderr.len()).map_err(|_| outputs_full())?;
        if stdout.len() + stderr.len() > EXEC_OUTPUT_BYTES_MAX {
            return Ok(Err(Failure::new(
                FailureKind::TooLarge,
                format!(
                    "the command printed more than {EXEC_OUTPUT_BYTES_MAX} bytes and was killed; use exec/stream or write to a file"
                ),
            )));
        }
    }
    Err(guest_error(FleetError::Nonsense("the stream ended before the process".to_owned())))
}

fn outputs_full() -> ServiceError {
    ServiceError::Busy(
        "the outputs of this credential's commands take all the memory there is for them; read the answers, or use exec/stream"
            .to_owned(),
    )
}

pub(super) async fn pid_of(stream: &mut ProcessStream) -> Result<u32, ServiceError> {
    match stream.next().await.map_err(start_error)? {
        Some(ProcessEvent::Started { pid }) => Ok(pid),
        _ => Err(guest_error(FleetError::Nonsense("the first event is not the start".to_owned()))),
    }
}

/// A program, user or directory that is not there is a fault of the request, not a missing resource.
pub(super) fn start_error(error: FleetError) -> ServiceError {
    match error {
        FleetError::Answered { code: ErrorCode::NotFound, message } => {
            guest_error(FleetError::Answered { code: ErrorCode::InvalidArgument, message })
        }
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => {
            ServiceError::Busy("the capsule runs as many processes as it can; end some and try again".to_owned())
        }
        other => guest_error(other),
    }
}

pub(super) fn config(command: Command) -> ProcessConfig {
    // A command without arguments is a line for the shell.
    let (cmd, args) = if command.args.is_empty() {
        ("/bin/sh".to_owned(), vec!["-c".to_owned(), command.cmd])
    } else {
        (command.cmd, command.args)
    };
    ProcessConfig {
        cmd,
        args,
        envs: command.envs.into_iter().collect(),
        cwd: command.cwd,
        user: command.user,
        ..Default::default()
    }
}
