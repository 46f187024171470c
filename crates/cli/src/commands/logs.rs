//! `wrenn logs ID [TAG|PID]`: what a process printed lately and goes on to print; without one, the capsule's console.

use std::io::IsTerminal;

use anyhow::bail;
use clap::Args;

use super::arguments::{capsule_id, in_path, process_name};
use super::ending;
use super::exit_codes::{INTERRUPTED, exit_code};
use crate::api::{Client, ExecEvent, ExecStream};
use crate::output::{Output, as_text, plain, write};

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Capsule to look into.
    #[arg(value_parser = capsule_id)]
    id: String,
    /// Process, by tag or pid; see `wrenn ps`. Also one that ended within the last minute. The capsule's console when absent.
    #[arg(value_name = "TAG|PID", value_parser = process_name)]
    process: Option<String>,
    /// Stay and show what it prints until it ends; returns its exit code.
    #[arg(long, short = 'f', requires = "process")]
    follow: bool,
}

/// Shows output; the number is the exit code of the process where it was followed to its end.
///
/// # Errors
/// The server refuses, cannot be reached, or the output broke off.
pub async fn run(args: LogsArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let Some(process) = &args.process else { return console(&args.id, client, output).await };
    if args.follow && output.is_json() {
        bail!("--follow has no JSON form; leave one of them out");
    }
    let mut stream = ExecStream::attach(client, &args.id, &in_path(process), args.follow).await?;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    // Bounded: the server keeps 256 KiB of a process's output.
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = loop {
        let event = tokio::select! {
            // An interrupt first: output without end must not hide it.
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(INTERRUPTED),
            event = stream.next() => event?,
        };
        let gone = match event {
            Some(ExecEvent::Started { .. }) => None,
            Some(ExecEvent::Stdout(bytes)) if output.is_json() => {
                out.extend_from_slice(&bytes);
                None
            }
            Some(ExecEvent::Stderr(bytes)) if output.is_json() => {
                err.extend_from_slice(&bytes);
                None
            }
            Some(ExecEvent::Stdout(bytes)) => write(&mut stdout, &bytes).await?,
            Some(ExecEvent::Stderr(bytes)) => write(&mut stderr, &bytes).await?,
            Some(ExecEvent::Exit(code)) => break Some(code),
            Some(ExecEvent::Error(text)) => return Err(ending::explain(client, &args.id, Some(&text)).await),
            None if args.follow => return Err(ending::explain(client, &args.id, None).await),
            None => break None,
        };
        if let Some(code) = gone {
            return Ok(code);
        }
    };
    if output.is_json() {
        let (stdout, stderr, encoded) = as_text(out, err);
        let encoding = if encoded { "base64" } else { "utf-8" };
        let result = serde_json::json!({"stdout": stdout, "stderr": stderr, "encoding": encoding, "exit_code": ended});
        output.result(&result, String::new);
        return Ok(0);
    }
    Ok(if args.follow { ended.map_or(0, exit_code) } else { 0 })
}

async fn console(id: &str, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let bytes = client.get_bytes(&format!("/v1/capsules/{id}/console")).await?;
    if output.is_json() {
        output.result(&serde_json::json!({"console": String::from_utf8_lossy(&bytes)}), String::new);
        return Ok(0);
    }
    let mut stdout = tokio::io::stdout();
    if std::io::stdout().is_terminal() {
        // What boots asks the terminal questions and sets its colours; none of that is for this one.
        let text = plain(&String::from_utf8_lossy(&bytes).replace('\r', ""));
        return Ok(write(&mut stdout, text.as_bytes()).await?.unwrap_or(0));
    }
    Ok(write(&mut stdout, &bytes).await?.unwrap_or(0))
}
