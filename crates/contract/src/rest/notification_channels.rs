//! `/v1/channels`: where a team hears of what happens to its capsules.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/channels`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateChannel {
    /// Made fit: outer blanks go, letters become small, inner blanks dashes. Then 1 to 64 letters, digits, dots, underscores and
    /// dashes that begin with a letter or digit.
    pub name: String,
    /// webhook, discord, slack, teams, googlechat, telegram or matrix.
    pub provider: String,
    /// Settings of the provider, all text. webhook: url, and secret if you have one; discord, slack, teams, googlechat:
    /// webhook_url; telegram: bot_token, chat_id; matrix: homeserver_url, access_token, room_id. Sealed at rest, never shown again.
    pub config: BTreeMap<String, String>,
    /// Types of events: capsule.create, capsule.pause, capsule.resume, capsule.destroy, template.snapshot.create,
    /// template.snapshot.delete, host.up, host.down.
    pub events: Vec<String>,
}

/// Body of `PATCH /v1/channels/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateChannel {
    pub name: String,
    pub events: Vec<String>,
}

/// Body of `PUT /v1/channels/{id}/config`: replaces all of it.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceChannelConfig {
    pub config: BTreeMap<String, String>,
}

/// Body of `POST /v1/channels/test`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestChannel {
    pub provider: String,
    pub config: BTreeMap<String, String>,
}

/// Answer of `POST /v1/channels/test`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TestedChannel {
    /// "ok": the provider took the event channel.test.
    pub status: String,
}

/// A channel. What it is configured with is never shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    pub id: String,
    pub team_id: String,
    pub name: String,
    pub provider: String,
    pub events: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Events on their way to it: to be sent, or to be sent again.
    pub waiting: u32,
    /// Events that were given up since the channel was made: tried too often, or come while 1000 waited.
    pub given_up: u64,
    /// When it last took one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivered_at: Option<DateTime<Utc>>,
    /// The last try that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<ChannelFailure>,
    /// Key that signs a webhook's events; only in the answer of its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A delivery that failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChannelFailure {
    pub at: DateTime<Utc>,
    pub error: String,
}
