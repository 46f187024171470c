//! `wrenn key list|create|revoke`.

use anyhow::Context as _;
use clap::Subcommand;
use http::Method;
use wrenn_contract::rest::keys::{ApiKey, CreateKey};

use crate::api::Client;
use crate::output::{Output, moment, plain, table};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the team's keys, newest first.
    #[command(visible_alias = "ls")]
    List {
        /// Another team than the one your key works in.
        #[arg(long, value_name = "TEAM")]
        team: Option<String>,
    },
    /// Create a key for a team. It is printed this once.
    Create {
        /// Name of the key.
        name: Option<String>,
        /// Days until it ends; never when absent.
        #[arg(long, value_name = "DAYS")]
        expires: Option<i64>,
        /// Another team than the one your key works in.
        #[arg(long, value_name = "TEAM")]
        team: Option<String>,
    },
    /// Take a key back; it stops working within a second.
    #[command(visible_alias = "rm")]
    Revoke {
        /// key-...
        id: String,
        /// Another team than the one your key works in.
        #[arg(long, value_name = "TEAM")]
        team: Option<String>,
    },
}

/// Runs one of the commands.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(command: KeyCommand, client: &Client, output: &Output) -> anyhow::Result<u8> {
    match command {
        KeyCommand::List { team } => {
            let keys: Vec<ApiKey> = client.get(&format!("/v1/api-keys{}", query(team)?)).await?;
            output.result(&keys, || {
                let rows: Vec<_> = keys.iter().map(row).collect();
                table(&["ID", "NAME", "KEY", "MADE BY", "LAST USED", "ENDS"], &rows)
            });
        }
        KeyCommand::Create { name, expires, team } => {
            let wish = CreateKey { name, expires_in_days: expires, team_id: team };
            let made: ApiKey = client.post("/v1/api-keys", &wish).await?;
            output.result(&made, || made.key.clone().unwrap_or_default());
        }
        KeyCommand::Revoke { id, team } => {
            let id: wrenn_domain::ids::KeyId = id.parse().context("`wrenn key list` shows the ids")?;
            client.empty(Method::DELETE, &format!("/v1/api-keys/{id}{}", query(team)?)).await?;
            output.note(&format!("revoked {id}"));
        }
    }
    Ok(0)
}

fn query(team: Option<String>) -> anyhow::Result<String> {
    let Some(team) = team else { return Ok(String::new()) };
    let team: wrenn_domain::ids::TeamId = team.parse().context("`wrenn team list` shows the ids")?;
    Ok(format!("?team_id={team}"))
}

fn row(key: &ApiKey) -> Vec<String> {
    vec![
        key.id.clone(),
        plain(&key.name),
        format!("{}...", plain(&key.key_prefix)),
        plain(key.creator_email.as_deref().unwrap_or("-")),
        moment(key.last_used, "never"),
        moment(key.expires_at, "never"),
    ]
}
