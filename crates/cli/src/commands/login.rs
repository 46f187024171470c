//! `wrenn login`, `logout`, `whoami` and `context`.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use wrenn_contract::rest::auth::{AskDevice, BeginDevice, DeviceAnswer, DeviceBegun, DeviceStatus};
use wrenn_contract::rest::me::{CredentialKind, WhoAmI};
use wrenn_contract::rest::teams::TeamRole;

use crate::api::{Client, Connection};
use crate::contexts::{Context, Contexts};
use crate::output::{Output, plain, table};

/// Name of the context when none is given.
const CONTEXT_DEFAULT: &str = "default";
/// Bytes read from stdin for a pasted key; a key is 36.
const KEY_BYTES_MAX: u64 = 4096;

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Name to keep this login under; several servers may be kept side by side.
    #[arg(long = "name", default_value = CONTEXT_DEFAULT, value_name = "NAME")]
    name: String,
    /// Read an API key from stdin instead of asking for approval in a browser.
    #[arg(long)]
    with_key: bool,
}

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List logins; the current one is marked.
    #[command(visible_alias = "ls")]
    List,
    /// Use another login from now on.
    Use { name: String },
    /// Forget a login here. Its key stays valid; `wrenn logout` revokes it too.
    Rm { name: String },
}

/// Logs in and keeps the key.
///
/// # Errors
/// Nobody approved in time, the key is refused, or the login cannot be kept.
pub async fn login(args: LoginArgs, connection: Connection, output: &Output) -> anyhow::Result<u8> {
    let base_url = connection.base_url.clone();
    let key = if args.with_key { pasted(output)? } else { approved(&connection, output).await? };
    let client = Client::new(&Connection { base_url: base_url.clone(), api_key: Some(key.clone()) })?;
    // A key that does not work is not worth keeping.
    let me: WhoAmI = client.get("/v1/whoami").await?;
    let mut contexts = Contexts::load()?;
    contexts.contexts.insert(args.name.clone(), Context { base_url, api_key: key });
    contexts.current = Some(args.name.clone());
    contexts.save()?;
    output.result(&me, || format!("logged in as {} ({})", who(&me), args.name));
    Ok(0)
}

fn pasted(output: &Output) -> anyhow::Result<String> {
    output.note("paste an API key and press Enter, then Ctrl-D");
    let mut text = String::new();
    std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text).context("cannot read the key from stdin")?;
    Ok(text.trim().to_owned())
}

async fn approved(connection: &Connection, output: &Output) -> anyhow::Result<String> {
    let client = Client::new(&Connection { api_key: None, ..connection.clone() })?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let program = BeginDevice { client: Some(format!("wrenn on {}", plain(host.trim()))) };
    let begun: DeviceBegun = client.post_open("/v1/auth/device", &program).await?;
    // Also with --json: whoever runs this must see it.
    eprintln!("Open {}\nand check that it shows the code {}", plain(&begun.verification_uri), plain(&begun.user_code));
    let spinner = output.spinner("waiting for your approval");
    let ask = AskDevice { device_code: begun.device_code };
    let wait = async {
        loop {
            tokio::time::sleep(Duration::from_secs(begun.interval.clamp(1, 60))).await;
            let answer: DeviceAnswer = client.post_open("/v1/auth/device/token", &ask).await?;
            match (answer.status, answer.api_key) {
                (DeviceStatus::Approved, Some(key)) => return Ok::<_, anyhow::Error>(key),
                (DeviceStatus::Approved, None) => bail!("the server approved the login without a key"),
                (DeviceStatus::Pending, _) => {}
            }
        }
    };
    let key = tokio::time::timeout(Duration::from_secs(begun.expires_in), wait).await;
    spinner.finish_and_clear();
    key.context("nobody approved the login in time; run `wrenn login` again")?
}

/// Forgets the current login and revokes its key if it is a personal one.
///
/// # Errors
/// There is no login, or its file cannot be written.
pub async fn logout(name: Option<String>, output: &Output) -> anyhow::Result<u8> {
    let mut contexts = Contexts::load()?;
    let Some(name) = name.or_else(|| contexts.current.clone()) else { bail!("you are not logged in anywhere") };
    let Some(context) = contexts.contexts.remove(&name) else { bail!("there is no context {name}") };
    if contexts.current.as_deref() == Some(name.as_str()) {
        contexts.current = None;
    }
    contexts.save()?;
    let revoked = revoke(&Connection { api_key: Some(context.api_key), base_url: context.base_url }).await;
    if let Err(error) = &revoked {
        output.note(&format!("the key could not be revoked: {error:#}"));
    }
    let value = serde_json::json!({"context": name, "revoked": matches!(revoked, Ok(true))});
    output.result(&value, || format!("logged out of {name}"));
    Ok(0)
}

async fn revoke(connection: &Connection) -> anyhow::Result<bool> {
    let client = Client::new(connection)?;
    let me: WhoAmI = client.get("/v1/whoami").await?;
    match (me.credential, me.key_id) {
        (CredentialKind::PersonalKey, Some(id)) => {
            client.empty(http::Method::DELETE, &format!("/v1/api-keys/{id}")).await?;
            Ok(true)
        }
        // A team's key is used by others too.
        _ => Ok(false),
    }
}

/// Shows whose key is used.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn whoami(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let me: WhoAmI = client.get("/v1/whoami").await?;
    output.result(&me, || format!("{} at {}", who(&me), client.base_url()));
    Ok(0)
}

fn who(me: &WhoAmI) -> String {
    let team = plain(&me.team_name);
    match (&me.email, me.role) {
        (Some(email), Some(role)) => format!("{}, {} of {team}", plain(email), role_word(role)),
        _ => format!("the key {} of {team}", plain(me.key_name.as_deref().unwrap_or("?"))),
    }
}

/// A role as people read it.
pub fn role_word(role: TeamRole) -> &'static str {
    match role {
        TeamRole::Owner => "owner",
        TeamRole::Admin => "admin",
        TeamRole::Member => "member",
    }
}

/// Runs one of the context commands.
///
/// # Errors
/// There is no such login, or its file cannot be written.
pub fn context(command: ContextCommand, output: &Output) -> anyhow::Result<u8> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::List => {
            let shown: Vec<_> = contexts
                .contexts
                .iter()
                .map(|(name, c)| serde_json::json!({"name": name, "base_url": c.base_url, "current": contexts.current.as_deref() == Some(name)}))
                .collect();
            output.result(&shown, || {
                let rows: Vec<Vec<String>> = contexts
                    .contexts
                    .iter()
                    .map(|(name, c)| {
                        let mark = if contexts.current.as_deref() == Some(name) { "*" } else { "" };
                        vec![mark.into(), plain(name), plain(&c.base_url)]
                    })
                    .collect();
                table(&["", "NAME", "SERVER"], &rows)
            });
        }
        ContextCommand::Use { name } => {
            contexts.chosen(Some(&name))?;
            contexts.current = Some(name.clone());
            contexts.save()?;
            output.note(&format!("using {name}"));
        }
        ContextCommand::Rm { name } => {
            if contexts.contexts.remove(&name).is_none() {
                bail!("there is no context {name}");
            }
            if contexts.current.as_deref() == Some(name.as_str()) {
                contexts.current = None;
            }
            contexts.save()?;
            output.note(&format!("forgot {name}"));
        }
    }
    Ok(0)
}
