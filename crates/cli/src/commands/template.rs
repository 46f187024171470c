//! `wrenn template list`.

use clap::Subcommand;
use wrenn_contract::rest::snapshots::{Template, TemplateKind};

use crate::api::Client;
use crate::output::{Output, plain, table};

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List templates, newest first.
    #[command(visible_alias = "ls")]
    List,
}

/// Runs one of the commands.
pub async fn run(command: TemplateCommand, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let TemplateCommand::List = command;
    let templates: Vec<Template> = client.get("/v1/snapshots").await?;
    output.result(&templates, || {
        let rows: Vec<Vec<String>> = templates
            .iter()
            .map(|t| {
                let kind = match t.kind {
                    TemplateKind::Base => "base",
                    TemplateKind::Snapshot => "snapshot",
                };
                let owner = if t.platform { "platform" } else { "team" };
                let size = indicatif::BinaryBytes(u64::try_from(t.size_bytes).unwrap_or(0)).to_string();
                vec![plain(&t.name), kind.into(), owner.into(), size]
            })
            .collect();
        table(&["NAME", "TYPE", "OWNER", "SIZE"], &rows)
    });
    Ok(0)
}
