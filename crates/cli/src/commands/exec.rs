//! `wrenn exec ID -- CMD...`: a command in a capsule as if it ran here.
//!
//! Bytes pass unchanged both ways. Ends with the command's exit code; 124 to 127 are also this tool's own, as those of `timeout` and
//! `docker`: 124 it took too long, 125 the tool or the server failed, 126 the program may not be executed, 127 it was not found.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use wrenn_contract::rest::capsules::{Encoding, Exec, ExecStarted};

use super::arguments::capsule_id;
use super::command_args::CommandArgs;
use super::ending;
use super::exit_codes::{INTERRUPTED, TIMED_OUT, exit_code, start_code};
use super::processes::signal;
use crate::api::{Client, ExecEvent, ExecStart, ExecStream};
use crate::output::{Output, as_text, plain, write};
use input::{Feeder, InputFrom};

mod input;

/// Bytes of output collected for `--json`, per stream.
const COLLECT_MAX: usize = 64 * 1024 * 1024;
/// Time for the server to hear that the command is to be killed.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// Run a command in a capsule; streams its output and returns its exit code.
///
/// Ctrl-C interrupts the command, a second one terminates it, a third one kills it. Exit codes of the tool itself: 124 the command took longer
/// than --timeout, 125 it could not be run or followed, 126 it may not be executed, 127 it was not found.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Capsule to run in.
    #[arg(value_parser = capsule_id)]
    id: String,
    #[command(flatten)]
    how: CommandArgs,
    /// Send this terminal's input too. Input from a pipe or file is sent to a command that runs for a second.
    #[arg(long, short = 'i', conflicts_with = "no_input")]
    interactive: bool,
    /// Read no input, and leave it to whoever else reads it.
    #[arg(long, short = 'n')]
    no_input: bool,
    /// Kill the command after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "detach")]
    timeout: Option<u64>,
    /// Start it and return at once, printing its pid and tag.
    #[arg(long, short = 'd')]
    detach: bool,
    /// Command and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs the command; the number is its exit code.
///
/// # Errors
/// It could not be run or followed.
pub async fn run(args: ExecArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let envs = args.how.envs();
    let mut words = args.command.into_iter();
    let cmd = words.next().context("no command given")?;
    let (args_given, cwd, user) = (words.collect(), args.how.workdir, args.how.user);
    if args.detach {
        let exec = Exec { cmd, args: args_given, background: true, envs, cwd, user, ..Exec::default() };
        return detach(&args.id, &exec, client, output).await;
    }
    let input = match (args.interactive, args.no_input, std::io::stdin().is_terminal()) {
        (_, true, _) | (false, false, true) => InputFrom::Nowhere,
        (true, false, _) => InputFrom::AtOnce,
        (false, false, false) => InputFrom::AfterGrace,
    };
    let start = ExecStart { cmd, args: args_given, envs, cwd, user, stdin: input != InputFrom::Nowhere };
    let stream = ExecStream::start(client, &args.id, start).await?;
    let running = Running { client, id: &args.id, stream, timeout: args.timeout.map(Duration::from_secs) };
    if output.is_json() { running.collect(input, output).await } else { running.follow(input, output).await }
}

async fn detach(id: &str, exec: &Exec, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let started: ExecStarted = client.post(&format!("/v1/capsules/{id}/exec"), exec).await?;
    output.result(&started, || format!("{} {}", started.pid, started.tag));
    Ok(0)
}

/// A command that was started.
struct Running<'a> {
    client: &'a Client,
    id: &'a str,
    stream: ExecStream,
    timeout: Option<Duration>,
}

/// How following a command ended.
enum End {
    Exit(i32),
    /// The time-out passed, and the command is being killed.
    TimedOut,
    /// The user gave it up.
    Interrupted,
    /// Whoever read our output is gone.
    ReaderGone(u8),
    /// The command could not be started.
    NotStarted(u8, String),
}

impl Running<'_> {
    async fn follow(mut self, input: InputFrom, output: &Output) -> anyhow::Result<u8> {
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        let end = self
            .run(input, async |event| match event {
                Piece::Out(bytes) => write(&mut stdout, &bytes).await,
                Piece::Err(bytes) => write(&mut stderr, &bytes).await,
            })
            .await?;
        Ok(match end {
            End::Exit(code) => exit_code(code),
            End::Interrupted => INTERRUPTED,
            End::ReaderGone(code) => code,
            End::TimedOut => {
                output.failure(&self.took_too_long());
                TIMED_OUT
            }
            End::NotStarted(code, text) => {
                output.failure(&anyhow::anyhow!("{}", plain(&text)));
                code
            }
        })
    }

    async fn collect(mut self, input: InputFrom, output: &Output) -> anyhow::Result<u8> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let end = self
            .run(input, async |piece| {
                match piece {
                    Piece::Out(bytes) => out.extend_from_slice(&bytes),
                    Piece::Err(bytes) => err.extend_from_slice(&bytes),
                }
                anyhow::ensure!(
                    out.len().max(err.len()) <= COLLECT_MAX,
                    "the command printed more than 64 MiB; run it without --json to stream its output"
                );
                Ok(None)
            })
            .await?;
        let (exit_code, code) = match end {
            End::Exit(code) => (Some(code), exit_code(code)),
            End::TimedOut => (None, TIMED_OUT),
            End::Interrupted => (None, INTERRUPTED),
            End::ReaderGone(code) => (None, code),
            End::NotStarted(code, text) => {
                output.failure(&anyhow::anyhow!("{}", plain(&text)));
                return Ok(code);
            }
        };
        let (stdout, stderr, encoding) = as_text(out, err);
        let encoding = if encoding { Encoding::Base64 } else { Encoding::Utf8 };
        let mut result =
            serde_json::json!({"stdout": stdout, "stderr": stderr, "exit_code": exit_code, "encoding": encoding});
        if code == TIMED_OUT {
            result["timed_out"] = true.into();
        }
        output.result(&result, String::new);
        if code == TIMED_OUT {
            output.failure(&self.took_too_long());
        }
        Ok(code)
    }

    fn took_too_long(&self) -> anyhow::Error {
        let seconds = self.timeout.map_or(0, |timeout| timeout.as_secs());
        anyhow::anyhow!("the command took longer than {seconds} s and was killed")
    }

    /// Follows the command to an end. `take` gets its output and answers an exit code when nobody reads it any more.
    async fn run(
        &mut self,
        input: InputFrom,
        mut take: impl AsyncFnMut(Piece) -> anyhow::Result<Option<u8>>,
    ) -> anyhow::Result<End> {
        let mut feeder = Some(Feeder::start(&mut self.stream, input)?);
        let deadline = self.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let (mut pid, mut interrupts) = (None, 0);
        let end = loop {
            let event = tokio::select! {
                // An interrupt and the deadline first: output without end must not hide them.
                biased;
                _ = tokio::signal::ctrl_c() => {
                    interrupts += 1;
                    match (interrupts, pid) {
                        (1, Some(pid)) => signal(self.client, self.id, pid, "SIGINT").await,
                        (2, Some(pid)) => signal(self.client, self.id, pid, "SIGTERM").await,
                        _ => break End::Interrupted,
                    }
                    continue;
                }
                () = until(deadline) => break End::TimedOut,
                event = self.stream.next() => event?,
            };
            let piece = match event {
                Some(ExecEvent::Started { pid: started }) => {
                    pid = Some(started);
                    if let Some(feeder) = &mut feeder {
                        feeder.started();
                    }
                    continue;
                }
                Some(ExecEvent::Stdout(bytes)) => Piece::Out(bytes),
                Some(ExecEvent::Stderr(bytes)) => Piece::Err(bytes),
                Some(ExecEvent::Exit(code)) => return Ok(End::Exit(code)),
                Some(ExecEvent::Error(text)) if pid.is_none() => break End::NotStarted(start_code(&text), text),
                Some(ExecEvent::Error(text)) => return Err(ending::explain(self.client, self.id, Some(&text)).await),
                None => return Err(ending::explain(self.client, self.id, None).await),
            };
            if let Some(code) = take(piece).await? {
                break End::ReaderGone(code);
            }
        };
        if let Some(feeder) = feeder {
            // The kill must reach the server before the process ends.
            let _ = tokio::time::timeout(STOP_WAIT, feeder.stop()).await;
        }
        Ok(end)
    }
}

/// Output of a command.
enum Piece {
    Out(Bytes),
    Err(Bytes),
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
