//! `wrenn ps ID`.

use clap::Args;
use wrenn_contract::rest::processes::ProcessList;

use super::capsule_id;
use crate::api::Client;
use crate::output::{Output, plain, table};

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Capsule to look into.
    #[arg(value_parser = capsule_id)]
    id: String,
}

/// Lists what runs.
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
