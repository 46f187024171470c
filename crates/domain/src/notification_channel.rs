//! Notification channels: which providers there are, what each needs, and what a channel is called.
//!
//! Owns: [`Provider::fields`], [`ChannelConfig`]. Must never: know how a provider is spoken to.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::base_url::BaseUrl;
use crate::event::EventType;
use crate::failure::Failure;
use crate::limits::CHANNEL_VALUE_BYTES_MAX;
use crate::names::is_safe_name;
use crate::string_enum::string_enum;

string_enum! {
    /// Who carries a notification.
    Provider {
        Webhook = "webhook",
        Discord = "discord",
        Slack = "slack",
        Teams = "teams",
        GoogleChat = "googlechat",
        Telegram = "telegram",
        Matrix = "matrix",
    }
}

/// A value a provider needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
    pub required: bool,
}

/// Form a value must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// An address we will call: http or https.
    Url,
    /// Printable ASCII without blanks: it goes into a header or a path.
    Token,
    /// Any line of text.
    Text,
}

const fn needs(name: &'static str, kind: FieldKind) -> Field {
    Field { name, kind, required: true }
}

const fn takes(name: &'static str, kind: FieldKind) -> Field {
    Field { name, kind, required: false }
}

impl Provider {
    /// Fields of the provider's configuration.
    pub const fn fields(self) -> &'static [Field] {
        use FieldKind::{Text, Token, Url};
        match self {
            Self::Webhook => const { &[needs("url", Url), takes("secret", Text)] },
            Self::Discord | Self::Slack | Self::Teams | Self::GoogleChat => const { &[needs("webhook_url", Url)] },
            // Telegram lets people run its bot server themselves.
            Self::Telegram => const { &[needs("bot_token", Token), needs("chat_id", Text), takes("api_url", Url)] },
            Self::Matrix => {
                const { &[needs("homeserver_url", Url), needs("access_token", Token), needs("room_id", Text)] }
            }
        }
    }
}

/// Checked configuration of a channel. Holds secrets: this type has no Debug form.
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelConfig {
    provider: Provider,
    values: BTreeMap<String, String>,
}

impl ChannelConfig {
    /// Checks what a caller sent.
    ///
    /// # Errors
    /// A value is missing, unknown, too long or not of its kind. The values themselves are in no message.
    pub fn new(provider: Provider, values: BTreeMap<String, String>) -> Result<Self, Failure> {
        let fields = provider.fields();
        if let Some(unknown) = values.keys().find(|key| fields.iter().all(|field| field.name != key.as_str())) {
            let known: Vec<_> = fields.iter().map(|field| field.name).collect();
            let shown: String = unknown.chars().take(64).collect();
            return Err(Failure::invalid(format!("config: {provider} takes {}, not {shown:?}", known.join(", "))));
        }
        for field in fields {
            let name = field.name;
            let Some(value) = values.get(name).filter(|value| !value.is_empty()) else {
                if field.required {
                    return Err(Failure::invalid(format!("config: {provider} needs {name}")));
                }
                continue;
            };
            if value.len() > CHANNEL_VALUE_BYTES_MAX {
                return Err(Failure::invalid(format!("config: {name} is longer than {CHANNEL_VALUE_BYTES_MAX} bytes")));
            }
            field.kind.check(value).map_err(|what| Failure::invalid(format!("config: {name} {what}")))?;
        }
        Ok(Self { provider, values: values.into_iter().filter(|(_, value)| !value.is_empty()).collect() })
    }

    /// Whom it is for.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// A value; empty when it is not there.
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// Sets a value that was not sent.
    pub fn fill(&mut self, name: &str, value: impl FnOnce() -> String) -> &str {
        self.values.entry(name.to_owned()).or_insert_with(value)
    }

    /// All values, to be sealed.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }
}

impl FieldKind {
    fn check(self, value: &str) -> Result<(), &'static str> {
        let graphic = value.bytes().all(|byte| byte.is_ascii_graphic());
        match self {
            Self::Url if !graphic => Err("is no URL: it has blanks or characters that are not ASCII"),
            Self::Url if !(value.starts_with("https://") || value.starts_with("http://")) => {
                Err("has to begin with https:// or http://")
            }
            Self::Url if !is_url(value) => {
                Err("is no URL: it has a user name, or a host, port, path or query that is not valid")
            }
            Self::Token if !graphic => Err("has blanks or characters that are not ASCII"),
            Self::Token if value.contains(['/', '?', '#', '%', '\\']) => Err("has characters that no such token has"),
            Self::Text if value.chars().any(char::is_control) => Err("has control characters"),
            _ => Ok(()),
        }
    }
}

/// Whether a text names a server, and holds none of the characters that no URL has.
fn is_url(text: &str) -> bool {
    let server = text.split(['?', '#']).next().unwrap_or_default();
    !text.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}']) && server.parse::<BaseUrl>().is_ok()
}

/// Name a team gives a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelName(String);

impl FromStr for ChannelName {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let name = text.trim().to_lowercase().replace(' ', "-");
        if is_safe_name(&name) {
            return Ok(Self(name));
        }
        Err(Failure::invalid(
            "name: 1 to 64 letters, digits, dots, underscores, dashes and blanks, beginning with a letter or digit",
        ))
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The types of events a channel hears of: each once, in the order of [`EventType::ALL`], at least one.
///
/// # Errors
/// When there is none, or a text is no type of event.
pub fn event_types(texts: &[String]) -> Result<Vec<EventType>, Failure> {
    if let Some(unknown) = texts.iter().find(|text| text.parse::<EventType>().is_err()) {
        let shown: String = unknown.chars().take(64).collect();
        return Err(Failure::invalid(format!("events: {shown:?} is none of {}", EventType::alternatives())));
    }
    if texts.is_empty() {
        return Err(Failure::invalid(format!("events: name at least one of {}", EventType::alternatives())));
    }
    Ok(EventType::ALL.iter().copied().filter(|kind| texts.iter().any(|text| text == kind.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(provider: Provider, values: &[(&str, &str)]) -> Result<ChannelConfig, Failure> {
        ChannelConfig::new(provider, values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn each_provider_takes_what_it_needs_and_nothing_else() {
        for provider in Provider::ALL {
            let value = |field: &Field| match field.kind {
                FieldKind::Url => "https://example.com/x",
                FieldKind::Token => "123:abc",
                FieldKind::Text => "!room:example.com",
            };
            let full: Vec<_> = provider.fields().iter().map(|field| (field.name, value(field))).collect();
            assert!(config(*provider, &full).is_ok(), "{provider}");
            for (at, field) in provider.fields().iter().enumerate() {
                let mut less = full.clone();
                less.remove(at);
                assert_eq!(config(*provider, &less).is_ok(), !field.required, "{provider} {}", field.name);
                let mut empty = full.clone();
                empty[at].1 = "";
                assert_eq!(config(*provider, &empty).is_ok(), !field.required, "{provider} {}", field.name);
            }
            let more: Vec<_> = full.into_iter().chain([("other", "x")]).collect();
            assert!(config(*provider, &more).is_err());
        }
    }

    #[test]
    fn values_that_would_leave_their_place_are_refused_and_not_repeated() {
        let long = format!("https://example.com/{}", "x".repeat(CHANNEL_VALUE_BYTES_MAX));
        for url in ["ftp://hunter2", "hunter2", "https://hunter2/a b", "https://hunter2\r\nx: y", &long] {
            let refused = config(Provider::Slack, &[("webhook_url", url)]).err().expect(url);
            assert!(!refused.message.contains("hunter2"), "{refused}");
        }
        for token in ["a/../b", "a?b", "a#b", "a b", "a\nb", "a%2fb"] {
            assert!(config(Provider::Telegram, &[("bot_token", token), ("chat_id", "1")]).is_err(), "{token}");
        }
        assert!(config(Provider::Telegram, &[("bot_token", "1:x"), ("chat_id", "1\n2")]).is_err());
    }

    #[test]
    fn names_are_made_fit() {
        assert_eq!(" On Call Team ".parse::<ChannelName>().unwrap().to_string(), "on-call-team");
        for bad in ["", "  ", "-x", "a/b", "é", &"a".repeat(65)] {
            assert!(bad.parse::<ChannelName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn events_are_known_ones_each_once() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let sorted = event_types(&texts(&["host.down", "capsule.create", "host.down"])).unwrap();
        assert_eq!(sorted, [EventType::CapsuleCreate, EventType::HostDown]);
        for bad in [&[][..], &["capsule.state.changed"], &["capsule.create", "x"]] {
            assert!(event_types(&texts(bad)).is_err(), "{bad:?}");
        }
    }
}
