//! `/v1/teams`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Role of a member in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeamRole {
    Owner,
    Admin,
    Member,
}

/// A team, as one of its members sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Team {
    pub id: String,
    pub name: String,
    pub slug: String,
    /// Brings its own hosts.
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
    /// The caller's.
    pub role: TeamRole,
}

/// Body of `POST /v1/teams` and `PATCH /v1/teams/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NameTeam {
    /// 1 to 128 characters.
    pub name: String,
}

/// Answer of `GET /v1/teams/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TeamWithMembers {
    pub team: Team,
    pub members: Vec<Member>,
}

/// Somebody in a team.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    pub user_id: String,
    pub name: String,
    pub email: String,
    pub role: TeamRole,
    pub joined_at: DateTime<Utc>,
}

/// Body of `POST /v1/teams/{id}/members`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// E-mail address of an active account.
    pub email: String,
}

/// Body of `PATCH /v1/teams/{id}/members/{uid}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRole {
    /// admin or member. Ownership is given by `POST /v1/teams/{id}/transfer`.
    pub role: TeamRole,
}

/// Body of `POST /v1/teams/{id}/transfer`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferTeam {
    /// The member who becomes the owner. The owner becomes an admin.
    pub user_id: String,
}
