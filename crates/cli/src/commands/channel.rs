//! `wrenn channel`: where a team hears of what happens to its capsules.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::Method;
use wrenn_contract::rest::notification_channels::{
    Channel, CreateChannel, ReplaceChannelConfig, TestChannel, TestedChannel, UpdateChannel,
};
use wrenn_domain::event::EventType;
use wrenn_domain::limits::CHANNEL_VALUE_BYTES_MAX;
use wrenn_domain::notification_channel::Provider;

use crate::api::Client;
use crate::output::{Output, moment, plain, table};

/// Arguments that configure a provider.
#[derive(Debug, Args)]
#[group(id = "provider_config")]
pub struct Config {
    /// Settings of the provider, once for each: url=... and perhaps secret=... (webhook), webhook_url=... (discord, slack, teams,
    /// googlechat), bot_token=... chat_id=... (telegram), homeserver_url=... access_token=... room_id=... (matrix). `NAME=@FILE`
    /// takes the value from a file and `NAME=@-` from standard input, so that a secret need not stand in the list of processes.
    #[arg(short = 'c', long = "config", value_name = "NAME=VALUE", required = true, value_parser = pair)]
    values: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// List the team's channels with what became of their last events.
    #[command(visible_alias = "ls")]
    List,
    /// Create a channel. The secret a webhook signs with is printed this once.
    Create {
        name: String,
        #[arg(value_parser = provider)]
        provider: Provider,
        #[command(flatten)]
        config: Config,
        /// Events to send, comma-separated; everything about capsules when absent.
        #[arg(short, long, value_delimiter = ',', value_parser = event, default_values = CAPSULE_EVENTS)]
        events: Vec<EventType>,
    },
    /// Show a channel.
    Get { channel: String },
    /// Change a channel's name or what it hears of.
    Update {
        channel: String,
        #[arg(long)]
        name: Option<String>,
        /// Comma-separated; replaces what it heard of.
        #[arg(short, long, value_delimiter = ',', value_parser = event)]
        events: Option<Vec<EventType>>,
    },
    /// Replace what a channel is configured with. What waits for it is tried at once.
    Config {
        channel: String,
        #[command(flatten)]
        config: Config,
    },
    /// Send a test with a configuration that is not kept.
    Test {
        #[arg(value_parser = provider)]
        provider: Provider,
        #[command(flatten)]
        config: Config,
    },
    /// Delete a channel with what waits for it.
    #[command(visible_alias = "rm")]
    Delete { channel: String },
}

const CAPSULE_EVENTS: [&str; 4] = [
    EventType::CapsuleCreate.as_str(),
    EventType::CapsulePause.as_str(),
    EventType::CapsuleResume.as_str(),
    EventType::CapsuleDestroy.as_str(),
];

/// Runs one of the commands.
///
/// # Errors
/// The server refuses or cannot be reached, or a setting's file cannot be read.
pub async fn run(command: ChannelCommand, client: &Client, output: &Output) -> anyhow::Result<u8> {
    match command {
        ChannelCommand::List => {
            let channels = list(client).await?;
            output.result(&channels, || {
                let rows: Vec<_> = channels.iter().map(row).collect();
                table(&["ID", "NAME", "PROVIDER", "WAITING", "GIVEN UP", "LAST TAKEN", "LAST FAILURE"], &rows)
            });
        }
        ChannelCommand::Create { name, provider, config, events } => {
            let wish =
                CreateChannel { name, provider: provider.to_string(), config: config.read()?, events: words(&events) };
            let made: Channel = client.post("/v1/channels", &wish).await?;
            output.result(&made, || made.id.clone());
            if let Some(secret) = &made.secret {
                output.note(&format!("it signs with the secret {secret}"));
            }
        }
        ChannelCommand::Get { channel } => {
            let channel = find(client, &channel).await?;
            output.result(&channel, || details(&channel));
        }
        ChannelCommand::Update { channel, name, events } => {
            if name.is_none() && events.is_none() {
                bail!("say what to change: --name, --events, or both");
            }
            let found = find(client, &channel).await?;
            let wish = UpdateChannel {
                name: name.unwrap_or(found.name),
                events: events.map_or(found.events, |events| words(&events)),
            };
            client.send_json(Method::PATCH, &format!("/v1/channels/{}", found.id), &wish).await?;
            output.note(&format!("changed {}", found.id));
        }
        ChannelCommand::Config { channel, config } => {
            let found = find(client, &channel).await?;
            let wish = ReplaceChannelConfig { config: config.read()? };
            client.send_json(Method::PUT, &format!("/v1/channels/{}/config", found.id), &wish).await?;
            output.note(&format!("configured {}", found.id));
        }
        ChannelCommand::Test { provider, config } => {
            let wish = TestChannel { provider: provider.to_string(), config: config.read()? };
            let tested: TestedChannel = client.post("/v1/channels/test", &wish).await?;
            output.result(&tested, || format!("{provider} took the test"));
        }
        ChannelCommand::Delete { channel } => {
            let found = find(client, &channel).await?;
            client.empty(Method::DELETE, &format!("/v1/channels/{}", found.id)).await?;
            output.note(&format!("deleted {}", found.id));
        }
    }
    Ok(0)
}

async fn list(client: &Client) -> anyhow::Result<Vec<Channel>> {
    Ok(client.get("/v1/channels").await?)
}

/// By id or by name.
async fn find(client: &Client, text: &str) -> anyhow::Result<Channel> {
    let name = text.trim().to_lowercase().replace(' ', "-");
    let found = list(client).await?.into_iter().find(|channel| channel.id == text || channel.name == name);
    found.with_context(|| format!("there is no channel {text:?}; `wrenn channel list` shows them"))
}

impl Config {
    fn read(self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        for (name, value) in self.values {
            let value = match value.strip_prefix('@') {
                None => value,
                Some("-") => text(std::io::stdin()).context("cannot read standard input")?,
                Some(path) => {
                    let file = std::fs::File::open(path).with_context(|| format!("cannot open {path}"))?;
                    text(file).with_context(|| format!("cannot read {path}"))?
                }
            };
            if values.insert(name.clone(), value).is_some() {
                bail!("{name} is given twice");
            }
        }
        Ok(values)
    }
}

/// A value without the end of its line.
fn text(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    // What is longer is refused by the server; this only keeps a wrong file out of memory.
    from.take(CHANNEL_VALUE_BYTES_MAX as u64 * 2).read_to_string(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn words(events: &[EventType]) -> Vec<String> {
    events.iter().map(|kind| kind.to_string()).collect()
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it takes NAME=VALUE, such as webhook_url=@hook.txt")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn provider(text: &str) -> Result<Provider, String> {
    text.parse().map_err(|_| format!("one of {}", Provider::alternatives()))
}

fn event(text: &str) -> Result<EventType, String> {
    text.parse().map_err(|_| format!("one of {}", EventType::alternatives()))
}

fn failure(channel: &Channel) -> String {
    let failed = channel.last_failure.as_ref();
    failed.map_or_else(
        || "-".to_owned(),
        |failed| format!("{} {}", moment(Some(failed.at), "never"), plain(&failed.error)),
    )
}

fn row(channel: &Channel) -> Vec<String> {
    vec![
        channel.id.clone(),
        plain(&channel.name),
        plain(&channel.provider),
        channel.waiting.to_string(),
        channel.given_up.to_string(),
        moment(channel.last_delivered_at, "never"),
        failure(channel),
    ]
}

fn details(channel: &Channel) -> String {
    format!(
        "{}  {}  {}\nevents: {}\nwaiting: {}, given up: {}\nlast taken: {}\nlast failure: {}",
        channel.id,
        plain(&channel.name),
        plain(&channel.provider),
        plain(&channel.events.join(", ")),
        channel.waiting,
        channel.given_up,
        moment(channel.last_delivered_at, "never"),
        failure(channel)
    )
}
