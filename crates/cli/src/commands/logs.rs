//! `wrenn logs ID [TAG|PID]`: what a process printed lately and goes on to print; without one, the capsule's console.

use std::io::IsTerminal;

use anyhow::bail;
use base64::Engine;
use clap::Args;

use super::exec::{ended_early, exit_code, write};
use super::{capsule_id, in_path, process_name};
use crate::api::{Client, ExecEvent, ExecStream};
use crate::output::{Output, plain};

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
            _ = tokio::signal::ctrl_c() => return Ok(130),
            event = stream.next() => event?,
        };
        match event {
            Some(ExecEvent::Started) => {}
            Some(ExecEvent::Stdout(bytes)) if output.is_json() => out.extend_from_slice(&bytes),
            Some(ExecEvent::Stderr(bytes)) if output.is_json() => err.extend_from_slice(&bytes),
            Some(ExecEvent::Stdout(bytes)) => write(&mut stdout, &bytes).await?,
            Some(ExecEvent::Stderr(bytes)) => write(&mut stderr, &bytes).await?,
            Some(ExecEvent::Exit(code)) => break Some(code),
            Some(ExecEvent::Error(text)) => bail!("{}", plain(&text)),
            None if args.follow => return Err(ended_early()),
            None => break None,
        }
    };
    if output.is_json() {
        let (stdout, stderr, encoding) = match (str::from_utf8(&out), str::from_utf8(&err)) {
            (Ok(out), Ok(err)) => (out.to_owned(), err.to_owned(), "utf-8"),
            _ => {
                let base64 = &base64::engine::general_purpose::STANDARD;
                (base64.encode(&out), base64.encode(&err), "base64")
            }
        };
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
        write(&mut stdout, text.as_bytes()).await?;
    } else {
        write(&mut stdout, &bytes).await?;
    }
    Ok(0)
}
