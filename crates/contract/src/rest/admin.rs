//! `/v1/admin`: for platform admins.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Query of the paged lists.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// From 1; 1 when absent.
    #[serde(default)]
    pub page: Option<i64>,
}

/// Answer of `GET /v1/admin/teams`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminTeamPage {
    pub teams: Vec<AdminTeam>,
    pub total: i64,
    pub page: i64,
    pub per_page: i64,
    pub total_pages: i64,
}

/// A team with what it carries.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminTeam {
    pub id: String,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
    pub member_count: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_email: Option<String>,
    pub active_sandbox_count: i64,
    pub running_vcpus: i64,
    /// MiB.
    pub running_memory_mb: i64,
}

/// Answer of `GET /v1/admin/users`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminUserPage {
    pub users: Vec<AdminUser>,
    pub total: i64,
    pub page: i64,
    pub per_page: i64,
    pub total_pages: i64,
}

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminUser {
    pub id: String,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    /// inactive, active, disabled or deleted.
    pub status: String,
    pub created_at: DateTime<Utc>,
    pub teams_joined: i64,
    pub teams_owned: i64,
}

/// Bounds of what a team may use at once. Absent or null: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamLimits {
    /// Capsules that run, or are on their way to.
    #[serde(default)]
    pub capsules_max: Option<u64>,
    /// Capsules kept, paused ones included.
    #[serde(default)]
    pub kept_max: Option<u64>,
    #[serde(default)]
    pub vcpus_max: Option<u64>,
    /// MiB.
    #[serde(default)]
    pub memory_mb_max: Option<u64>,
}

/// Body of `PUT /v1/admin/users/{id}/active`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetActive {
    /// false ends its sessions and keys, and the capsules of the teams it owns.
    pub active: bool,
}

/// Body of `PUT /v1/admin/users/{id}/admin`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetAdmin {
    pub admin: bool,
}

/// A capsule with its team.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminCapsule {
    pub team_id: String,
    #[serde(flatten)]
    pub capsule: super::capsules::Capsule,
}

/// Query of `DELETE /v1/admin/templates/{name}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OfTeam {
    /// Whose; the platform's own when absent.
    pub team_id: Option<String>,
}

/// A template with its team.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminTemplate {
    pub team_id: String,
    #[serde(flatten)]
    pub template: super::snapshots::Template,
}

/// Answer of `GET /v1/admin/events/dead`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetters {
    pub items: Vec<DeadLetter>,
}

/// An event that was given up after every try to deliver it failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    pub event_id: String,
    /// Consumer group the event could not be delivered to.
    pub group: String,
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    pub team_id: String,
    pub resource_id: String,
    pub occurred_at: DateTime<Utc>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub attempts: u32,
    pub error: String,
    pub died_at: DateTime<Utc>,
}

/// Body of `POST /v1/admin/events/dead/retry`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryDeadLetter {
    pub event_id: String,
    pub group: String,
}
