//! `/v1/auth`: sign-up, login, sessions of browsers, logins of devices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/auth/signup`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// Taken in lower case.
    pub email: String,
    /// 8 characters to 1024 bytes. Counts for nothing: who can read the mail sets the password with the link in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Person's name, 1 to 100 characters.
    pub name: String,
}

/// Answer that only says what happens next.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub message: String,
}

/// Body of `POST /v1/auth/activate`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// From the link in the mail; works once.
    pub token: String,
    /// 8 characters to 1024 bytes. The account's password from now on; without it the account has none until one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Body of `POST /v1/auth/login`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub email: String,
    pub password: String,
}

/// Body of `POST /v1/auth/switch-team`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchTeam {
    pub team_id: String,
}

/// Account and team of a new session. The session itself is in the cookies `wrenn_sid` and `wrenn_csrf`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Session {
    pub user_id: String,
    /// Absent when the user is in no team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    pub email: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<super::teams::TeamRole>,
    /// The account is an admin of the whole platform.
    pub is_admin: bool,
}

/// Body of `POST /v1/auth/device`: a program asks to be let in.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginDevice {
    /// Program's name for itself, shown to the person who approves. At most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Answer of `POST /v1/auth/device`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceBegun {
    /// Secret of the program.
    pub device_code: String,
    /// For the person: `XXXX-XXXX`.
    pub user_code: String,
    /// Page to open, the code in it.
    pub verification_uri: String,
    /// Seconds until it is over.
    pub expires_in: u64,
    /// Seconds between two questions.
    pub interval: u64,
}

/// Body of `POST /v1/auth/device/token`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskDevice {
    pub device_code: String,
}

/// Answer of `POST /v1/auth/device/token`: 202 while nobody approved, 200 with the key once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceAnswer {
    /// pending or approved.
    pub status: DeviceStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// Whether somebody approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceStatus {
    Pending,
    Approved,
}

/// Body of `POST /v1/auth/device/approve` and `.../look`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveDevice {
    pub user_code: String,
}

/// Answer of `POST /v1/auth/device/look`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceClient {
    /// Waiting program's name for itself. Its own words: anybody may claim to be anything.
    pub client: String,
}

/// Query of `GET /auth/oauth/{provider}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BeginOAuth {
    /// login (default) or signup.
    #[serde(default)]
    pub intent: Option<String>,
}

/// Query of `GET /auth/oauth/{provider}/callback`, set by the provider.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OAuthCallback {
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub state: Option<String>,
    #[serde(default)]
    pub error: Option<String>,
}
