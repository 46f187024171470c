//! `wrenn exec ID -- CMD...`: a command in a capsule as if it ran here.
//!
//! Bytes pass unchanged both ways. Ctrl-C kills the command. Ends with the command's exit code.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use anyhow::{Context, bail};
use base64::Engine;
use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wrenn_contract::rest::capsules::{Encoding, Exec, ExecStarted};

use super::capsule_id;
use crate::api::{ApiError, Client, ExecEvent, ExecInput, ExecStart, ExecStream};
use crate::output::Output;

/// Bytes of input read at once.
const INPUT_CHUNK: usize = 64 * 1024;
/// Bytes of output collected for `--json`, per stream.
const COLLECT_MAX: usize = 64 * 1024 * 1024;
/// Exit code when Ctrl-C ended the command: 128 + SIGINT, as shells do.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Capsule to run in.
    #[arg(value_parser = capsule_id)]
    id: String,
    /// Environment variable, KEY=VALUE; may be repeated.
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Working directory; the user's home when absent.
    #[arg(long, short = 'w', value_name = "DIR")]
    workdir: Option<String>,
    /// Guest user; the template's default user when absent.
    #[arg(long, short = 'u', value_name = "NAME")]
    user: Option<String>,
    /// Send this terminal's input too. Input from a pipe or file is always sent.
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Start it and return at once, printing its pid and tag.
    #[arg(long, short = 'd')]
    detach: bool,
    /// Command and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a variable is KEY=VALUE".to_owned()),
    }
}

/// Runs the command; the number is its exit code.
pub async fn run(args: ExecArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let envs: BTreeMap<_, _> = args.env.into_iter().collect();
    let mut words = args.command.into_iter();
    let cmd = words.next().context("no command given")?;
    if args.detach {
        let exec = Exec {
            cmd,
            args: words.collect(),
            background: true,
            envs,
            cwd: args.workdir,
            user: args.user,
            ..Exec::default()
        };
        return detach(&args.id, &exec, client, output).await;
    }
    let stdin = args.interactive || !std::io::stdin().is_terminal();
    let start = ExecStart { cmd, args: words.collect(), envs, cwd: args.workdir, user: args.user, stdin };
    let stream = ExecStream::start(client, &args.id, start).await?;
    if output.is_json() { collect(stream, stdin, output).await } else { follow(stream, stdin).await }
}

async fn detach(id: &str, exec: &Exec, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let started: ExecStarted = client.post(&format!("/v1/capsules/{id}/exec"), exec).await?;
    output.result(&started, || format!("{} {}", started.pid, started.tag));
    Ok(0)
}

async fn follow(mut stream: ExecStream, stdin: bool) -> anyhow::Result<u8> {
    let mut stdout = tokio::io::stdout();
    let mut stderr = tokio::io::stderr();
    let (stop, feeder) = feed(&mut stream, stdin)?;
    let code = loop {
        let event = tokio::select! {
            // An interrupt first: output without end must not hide it.
            biased;
            _ = tokio::signal::ctrl_c() => {
                let _ = stop.send(());
                break INTERRUPTED;
            }
            event = stream.next() => event?,
        };
        match event {
            Some(ExecEvent::Started) => {}
            Some(ExecEvent::Stdout(bytes)) => write(&mut stdout, &bytes).await?,
            Some(ExecEvent::Stderr(bytes)) => write(&mut stderr, &bytes).await?,
            Some(ExecEvent::Exit(code)) => break exit_code(code),
            Some(ExecEvent::Error(text)) => bail!("{}", crate::output::plain(&text)),
            None => return Err(ended_early()),
        }
    };
    if code == INTERRUPTED {
        // The kill must reach the server before the process ends.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), feeder).await;
    } else {
        feeder.abort();
    }
    Ok(code)
}

pub(super) async fn write(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> anyhow::Result<()> {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    written.await.context("could not write the command's output here")
}

pub(super) fn ended_early() -> anyhow::Error {
    anyhow::Error::new(ApiError::Broken { reason: "the command's stream ended without an exit code".into() })
}

/// Sends standard input and, on `stop`, the wish to kill. Returns at once.
fn feed(
    stream: &mut ExecStream,
    stdin: bool,
) -> anyhow::Result<(tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>)> {
    let mut input = stream.take_input().context("input taken twice")?;
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let feeder = tokio::spawn(async move {
        if stdin {
            tokio::select! {
                biased;
                asked = &mut stopped => {
                    if asked.is_ok() { let _ = input.stop().await; }
                    return;
                }
                () = pump(&mut input) => {}
            }
        }
        if stopped.await.is_ok() {
            let _ = input.stop().await;
        }
    });
    Ok((stop, feeder))
}

async fn pump(input: &mut ExecInput) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0u8; INPUT_CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if input.data(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = input.eof().await;
}

async fn collect(mut stream: ExecStream, stdin: bool, output: &Output) -> anyhow::Result<u8> {
    let (_stop, feeder) = feed(&mut stream, stdin)?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = loop {
        match stream.next().await? {
            Some(ExecEvent::Started) => {}
            Some(ExecEvent::Stdout(bytes)) => out.extend_from_slice(&bytes),
            Some(ExecEvent::Stderr(bytes)) => err.extend_from_slice(&bytes),
            Some(ExecEvent::Exit(code)) => break code,
            Some(ExecEvent::Error(text)) => bail!("{}", crate::output::plain(&text)),
            None => return Err(ended_early()),
        }
        if out.len().max(err.len()) > COLLECT_MAX {
            bail!("the command printed more than 64 MiB; run it without --json to stream its output");
        }
    };
    feeder.abort();
    let (stdout, stderr, encoding) = match (String::from_utf8(out), String::from_utf8(err)) {
        (Ok(out), Ok(err)) => (out, err, Encoding::Utf8),
        (out, err) => {
            let bytes = |text: Result<String, std::string::FromUtf8Error>| {
                text.map_or_else(|bad| bad.into_bytes(), String::into_bytes)
            };
            let base64 = &base64::engine::general_purpose::STANDARD;
            (base64.encode(bytes(out)), base64.encode(bytes(err)), Encoding::Base64)
        }
    };
    let result = serde_json::json!({"stdout": stdout, "stderr": stderr, "exit_code": code, "encoding": encoding});
    output.result(&result, String::new);
    Ok(exit_code(code))
}

/// A process's status as a shell would report it.
pub(super) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}
