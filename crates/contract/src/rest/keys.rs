//! `/v1/api-keys` and `/v1/users/search`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/api-keys`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// "Unnamed API Key" when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Days until it ends, 1 to 3650; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_days: Option<i64>,
    /// The team it is for; the caller's current one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
}

/// A key. The secret is shown once, by the answer of its creation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    pub id: String,
    pub team_id: String,
    pub name: String,
    /// First characters, to recognise it by.
    pub key_prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator_email: Option<String>,
    /// Speaks for its maker, as `wrenn login` makes them.
    pub personal: bool,
    pub created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The key itself; only in the answer of its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Query of `GET /v1/api-keys`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListKeys {
    /// The caller's current team when absent.
    #[serde(default)]
    pub team_id: Option<String>,
}

/// Query of `GET /v1/users/search`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchUsers {
    /// Beginning of an address, at least 3 characters and the @.
    #[serde(default)]
    pub email: String,
}

/// Somebody found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FoundUser {
    pub user_id: String,
    pub email: String,
}
