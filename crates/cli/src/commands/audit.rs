//! `wrenn audit`: who did what in a team.

use anyhow::Context as _;
use clap::Args;
use wrenn_contract::rest::audit::{AuditEntry, AuditPage};

use crate::api::Client;
use crate::output::{Output, plain, table};

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Rows to show, at most 200.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=200))]
    limit: u8,
    /// Only these kinds of things, comma-separated, such as sandbox,api_key.
    #[arg(long = "type", value_name = "TYPES")]
    resource_type: Option<String>,
    /// Only these acts, comma-separated, such as create,destroy.
    #[arg(long, value_name = "ACTIONS")]
    action: Option<String>,
    /// Go on where a page ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Another team than the one your key works in.
    #[arg(long, value_name = "TEAM")]
    team: Option<String>,
}

/// Shows a page of the log.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(args: AuditArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut query = format!("?limit={}", args.limit);
    if let Some(team) = args.team {
        let team: wrenn_domain::ids::TeamId = team.parse().context("`wrenn team list` shows the ids")?;
        query.push_str(&format!("&team_id={team}"));
    }
    for (name, value) in [("resource_type", args.resource_type), ("action", args.action), ("cursor", args.cursor)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", escaped(&value)));
        }
    }
    let page: AuditPage = client.get(&format!("/v1/audit-logs{query}")).await?;
    output.result(&page, || {
        let rows: Vec<_> = page.items.iter().map(row).collect();
        table(&["TIME", "WHO", "DID", "TO", "HOW"], &rows)
    });
    if let Some(next) = &page.next_cursor {
        output.note(&format!("there is more: --cursor {next}"));
    }
    Ok(0)
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let who = if entry.actor_name.is_empty() { &entry.actor_type } else { &entry.actor_name };
    vec![
        entry.created_at.format("%Y-%m-%d %H:%M:%S").to_string(),
        plain(who),
        plain(&format!("{} {}", entry.action, entry.resource_type)),
        plain(entry.resource_id.as_deref().unwrap_or("-")),
        plain(&entry.status),
    ]
}

fn escaped(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b',' | b'.');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
