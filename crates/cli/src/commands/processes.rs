//! `wrenn ps ID` and `wrenn kill ID PID|TAG`.

use clap::Args;
use wrenn_contract::rest::processes::{ProcessList, SIGNALS};

use super::arguments::{capsule_id, in_path, process_name};
use crate::api::Client;
use crate::output::{Output, plain, table};

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Capsule to look into.
    #[arg(value_parser = capsule_id)]
    id: String,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// Capsule it runs in.
    #[arg(value_parser = capsule_id)]
    id: String,
    /// Process, by tag or pid; see `wrenn ps`. Its whole group gets the signal.
    #[arg(value_name = "TAG|PID", value_parser = process_name, required = true)]
    processes: Vec<String>,
    /// Signal to send.
    #[arg(long, short = 's', default_value = "SIGKILL", value_parser = signal_name)]
    signal: String,
}

/// Names a signal as the API does, however it was written: `term`, `TERM` and `SIGTERM` are one.
fn signal_name(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    match SIGNALS.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(format!("the signals are {}", SIGNALS.join(", "))),
    }
}

/// Signals a process.
///
/// # Errors
/// The capsule or process is not there.
pub async fn kill(args: KillArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut failed = 0;
    for process in &args.processes {
        let path = format!("/v1/capsules/{}/processes/{}?signal={}", args.id, in_path(process), args.signal);
        match client.empty(http::Method::DELETE, &path).await {
            Ok(()) => {
                output.result(&serde_json::json!({"process": process, "signal": args.signal}), || process.clone())
            }
            Err(error) => {
                failed = 1;
                output.failure(&anyhow::Error::from(error).context(format!("could not signal {}", plain(process))));
            }
        }
    }
    Ok(failed)
}

/// Signals a process that is being followed: when that fails its end will tell.
pub(super) async fn signal(client: &Client, id: &str, pid: u32, signal: &str) {
    let path = format!("/v1/capsules/{id}/processes/{pid}?signal={signal}");
    let _ = client.empty(http::Method::DELETE, &path).await;
}

/// Lists what runs.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(args: PsArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let list: ProcessList = client.get(&format!("/v1/capsules/{}/processes", args.id)).await?;
    output.result(&list, || {
        if list.processes.is_empty() {
            return "No processes. `wrenn exec -d` and `wrenn shell` start some that last.".to_owned();
        }
        let rows: Vec<Vec<String>> = list
            .processes
            .iter()
            .map(|process| {
                let words = std::iter::once(&process.cmd).chain(&process.args);
                let command: Vec<&str> = words.map(String::as_str).collect();
                let tag = process.tag.as_deref().unwrap_or("-");
                vec![process.pid.to_string(), plain(tag), plain(&command.join(" ").replace('\n', " "))]
            })
            .collect();
        table(&["PID", "TAG", "COMMAND"], &rows)
    });
    Ok(0)
}
