//! `/v1/events/stream`: what happens, while it happens.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::capsules::Capsule;

/// Query of the event streams.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WatchEvents {
    /// The `id` of the last event that was seen: those after it come first. The header Last-Event-ID says the same, and wins.
    #[serde(default)]
    pub last_event_id: Option<String>,
}

/// The comment that ends what is told again after [`WatchEvents::last_event_id`].
pub const CAUGHT_UP: &str = "caught up";

/// Kinds of frames; there will be no others on these streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum EventKind {
    #[serde(rename = "connected")]
    Connected,
    #[serde(rename = "capsule.create")]
    CapsuleCreate,
    #[serde(rename = "capsule.pause")]
    CapsulePause,
    #[serde(rename = "capsule.resume")]
    CapsuleResume,
    #[serde(rename = "capsule.destroy")]
    CapsuleDestroy,
    #[serde(rename = "capsule.state.changed")]
    CapsuleStateChanged,
    #[serde(rename = "template.snapshot.create")]
    SnapshotCreate,
    #[serde(rename = "template.snapshot.delete")]
    SnapshotDelete,
    #[serde(rename = "host.up")]
    HostUp,
    #[serde(rename = "host.down")]
    HostDown,
}

impl EventKind {
    /// The name in the frame's `event:` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::CapsuleCreate => "capsule.create",
            Self::CapsulePause => "capsule.pause",
            Self::CapsuleResume => "capsule.resume",
            Self::CapsuleDestroy => "capsule.destroy",
            Self::CapsuleStateChanged => "capsule.state.changed",
            Self::SnapshotCreate => "template.snapshot.create",
            Self::SnapshotDelete => "template.snapshot.delete",
            Self::HostUp => "host.up",
            Self::HostDown => "host.down",
        }
    }
}

/// The `data` of a frame.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventFrame {
    /// Id that every delivery of an event repeats; absent from frames that are sent once only (connected, capsule.state.changed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub event: EventKind,
    /// success or error; absent from host.up, host.down, capsule.state.changed and connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    pub timestamp: DateTime<Utc>,
    /// Absent from connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<EventActor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<EventResource>,
    /// reason: why it happened without anybody's wish, or what failed. from, to: of capsule.state.changed (from is empty at the
    /// birth). gap=true, of connected: some of what was missed is not kept any more; ask for the present state.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Greeting in the frame `connected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Capsule of a capsule.* frame as it is when the frame is made, which may be later than the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Capsule>,
}

/// Actor that caused an event.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventActor {
    /// user, api_key or system.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// E-mail address of a user, name of a key.
    pub name: String,
}

/// Resource an event is about.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventResource {
    /// Id of a capsule or host, name of a snapshot.
    pub id: String,
    /// sandbox, snapshot or host.
    #[serde(rename = "type")]
    pub kind: String,
}
