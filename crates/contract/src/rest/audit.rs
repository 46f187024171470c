//! `/v1/audit-logs`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Query of `GET /v1/audit-logs` and `GET /v1/admin/audit-logs`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListAudit {
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Rows, 1 to 200; 50 when absent.
    #[serde(default)]
    pub limit: Option<i64>,
    /// Comma-separated; every type when absent.
    #[serde(default)]
    pub resource_type: Option<String>,
    /// Comma-separated; every action when absent.
    #[serde(default)]
    pub action: Option<String>,
    /// The caller's current team when absent.
    #[serde(default)]
    pub team_id: Option<String>,
}

/// A page of the log, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub items: Vec<AuditEntry>,
    /// Give it as `cursor` for the page after this one; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One act.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub id: String,
    /// user, api_key, system or host.
    pub actor_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<String>,
    pub actor_name: String,
    pub resource_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    pub action: String,
    /// team, or admin: seen by owners and admins only.
    pub scope: String,
    /// success, info, warning or error.
    pub status: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub created_at: DateTime<Utc>,
}
