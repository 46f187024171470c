//! `wrenn template list|rm`.

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use http::Method;
use wrenn_contract::rest::snapshots::{Template, TemplateKind};
use wrenn_domain::names::TemplateName;

use crate::api::Client;
use crate::output::{Output, plain, table};

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List templates, newest first.
    #[command(visible_alias = "ls")]
    List {
        /// Only this type.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<Kind>,
    },
    /// Delete templates of your team. Capsules made from them live on.
    #[command(visible_alias = "delete")]
    Rm {
        #[arg(required = true, value_name = "NAME", value_parser = template_name)]
        names: Vec<String>,
    },
}

/// Types of templates.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Kind {
    /// An image only.
    Base,
    /// A captured capsule: memory and processes too.
    Snapshot,
}

/// Checks a template's name here, so that a typo needs no round trip.
pub(super) fn template_name(text: &str) -> Result<String, String> {
    text.parse::<TemplateName>().map(|name| name.to_string()).map_err(|error| error.message)
}

/// Runs one of the commands.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(command: TemplateCommand, client: &Client, output: &Output) -> anyhow::Result<u8> {
    match command {
        TemplateCommand::List { kind } => list(kind, client, output).await.map(|()| 0),
        TemplateCommand::Rm { names } => remove(&names, client, output).await,
    }
}

async fn list(kind: Option<Kind>, client: &Client, output: &Output) -> anyhow::Result<()> {
    let path = match kind {
        None => "/v1/snapshots",
        Some(Kind::Base) => "/v1/snapshots?type=base",
        Some(Kind::Snapshot) => "/v1/snapshots?type=snapshot",
    };
    let templates: Vec<Template> = client.get(path).await?;
    output.result(&templates, || {
        if templates.is_empty() {
            return "No templates. `wrenn capsule snapshot` makes one of a capsule.".to_owned();
        }
        let rows: Vec<Vec<String>> = templates
            .iter()
            .map(|t| {
                let kind = match t.kind {
                    TemplateKind::Base => "base",
                    TemplateKind::Snapshot => "snapshot",
                };
                let owner = if t.platform { "platform" } else { "team" };
                let size = indicatif::BinaryBytes(u64::try_from(t.size_bytes).unwrap_or(0)).to_string();
                let created = t.created_at.format("%Y-%m-%d %H:%M:%SZ").to_string();
                vec![plain(&t.name), kind.into(), owner.into(), size, created]
            })
            .collect();
        table(&["NAME", "TYPE", "OWNER", "SIZE", "CREATED"], &rows)
    });
    Ok(())
}

async fn remove(names: &[String], client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut failed = 0;
    for name in names {
        let removed = client.empty(Method::DELETE, &format!("/v1/snapshots/{name}")).await;
        match removed.with_context(|| format!("could not remove {name}")) {
            Ok(()) => output.result(&serde_json::json!({"name": name, "removed": true}), || name.clone()),
            Err(error) => {
                failed = 1;
                output.failure(&error);
            }
        }
    }
    Ok(failed)
}
