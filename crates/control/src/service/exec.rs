//! Running a command: foreground (collected, bounded, killed on time-out) and background. As a stream: streams.rs.
//!
//! Dropping any of these futures ends the process: the stream closes and envd kills the group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use connectrpc::ErrorCode;
use wrenn_contract::proto::process::ProcessConfig;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{EXEC_OUTPUT_BYTES_MAX, EXEC_STDIN_BYTES_MAX};
use wrenn_domain::names::ProcessTag;

use super::{Actor, ServiceError, guest_error, sandboxes};
use crate::context::Context;
use crate::fleet::guest::{Ended, ProcessNews, ProcessStream, Start};
use crate::fleet::{FleetError, GuestClient};

/// A valid command.
#[derive(Debug, Clone)]
pub struct Command {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
}

/// What a foreground command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
    pub took: Duration,
}

/// Runs to the end and collects the output.
pub async fn run(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    command: Command,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
) -> Result<Output, ServiceError> {
    if stdin.as_ref().is_some_and(|bytes| bytes.len() > EXEC_STDIN_BYTES_MAX) {
        return Err(Failure::new(
            FailureKind::TooLarge,
            format!("stdin is larger than {EXEC_STDIN_BYTES_MAX} bytes; write a file first, or use exec/stream"),
        )
        .into());
    }
    let guest = sandboxes::guest(ctx, actor, id).await?;
    let began = Instant::now();
    let work = collect(&guest, command, stdin);
    let (stdout, stderr, ended) = tokio::time::timeout(timeout, work).await.map_err(|_| {
        Failure::new(
            FailureKind::Timeout,
            format!(
                "the command took longer than {} s and was killed; raise timeout_sec or use background",
                timeout.as_secs()
            ),
        )
    })??;
    ctx.touches.sandbox(id);
    Ok(Output { stdout, stderr, exit_code: ended.exit_code, took: began.elapsed() })
}

/// Starts a process that outlives the call. Answers its pid.
pub async fn start(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    command: Command,
    tag: ProcessTag,
) -> Result<u32, ServiceError> {
    let guest = sandboxes::guest(ctx, actor, id).await?;
    let start = Start { config: config(command), tag: Some(tag), terminal: None, stdin: false, detach: true };
    let begin = async { pid_of(&mut guest.start(start).await.map_err(start_error)?).await };
    tokio::time::timeout(Duration::from_secs(30), begin).await.map_err(|_| guest_error(FleetError::TimedOut))?
}

async fn collect(
    guest: &GuestClient,
    command: Command,
    stdin: Option<Vec<u8>>,
) -> Result<(Vec<u8>, Vec<u8>, Ended), ServiceError> {
    let start = Start { config: config(command), tag: None, terminal: None, stdin: stdin.is_some(), detach: false };
    let mut stream = guest.start(start).await.map_err(start_error)?;
    let Some(input) = stdin else { return gather(&mut stream).await };
    let pid = pid_of(&mut stream).await?;
    let feed = async {
        // A process may end or close its input without reading it all: its output tells what happened.
        if !input.is_empty() && guest.send_input(pid, input).await.is_err() {
            return;
        }
        let _ = guest.close_stdin(pid).await;
    };
    let gather = gather(&mut stream);
    tokio::pin!(feed, gather);
    tokio::select! {
        // The end of the process is the end of the call, fed or not.
        biased;
        done = &mut gather => done,
        () = &mut feed => gather.await,
    }
}

async fn gather(stream: &mut ProcessStream) -> Result<(Vec<u8>, Vec<u8>, Ended), ServiceError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(news) = stream.next().await.map_err(start_error)? {
        match news {
            ProcessNews::Started { .. } | ProcessNews::Quiet => {}
            ProcessNews::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            ProcessNews::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            ProcessNews::Ended(ended) => return Ok((stdout, stderr, ended)),
        }
        if stdout.len() + stderr.len() > EXEC_OUTPUT_BYTES_MAX {
            return Err(Failure::new(
                FailureKind::TooLarge,
                format!(
                    "the command printed more than {EXEC_OUTPUT_BYTES_MAX} bytes and was killed; use exec/stream or write to a file"
                ),
            )
            .into());
        }
    }
    Err(guest_error(FleetError::Nonsense("the stream ended before the process".to_owned())))
}

pub(super) async fn pid_of(stream: &mut ProcessStream) -> Result<u32, ServiceError> {
    match stream.next().await.map_err(start_error)? {
        Some(ProcessNews::Started { pid }) => Ok(pid),
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
