//! `/v1/snapshots`: templates a capsule can be created from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/snapshots`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// The capsule to capture, running or paused.
    pub sandbox_id: String,
    /// Name of the template, `[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}`; "template-" and 8 hex characters when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Query of `POST /v1/snapshots`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
pub struct CreateSnapshotOptions {
    /// Take the name of a snapshot of the team's own: it gives way when the new one is ready, and stays if that fails.
    #[serde(default)]
    pub overwrite: bool,
}

/// A template. The list is a bare array: published SDKs iterate it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Template {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: TemplateKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    pub size_bytes: i64,
    pub created_at: DateTime<Utc>,
    /// Everybody's, not the team's own.
    pub platform: bool,
    /// Cannot be deleted.
    pub protected: bool,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// base: an image only. snapshot: memory and processes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateKind {
    Base,
    Snapshot,
}

/// Query of `GET /v1/snapshots`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
pub struct ListTemplates {
    /// Only this kind.
    #[serde(rename = "type")]
    pub kind: Option<TemplateKind>,
}
