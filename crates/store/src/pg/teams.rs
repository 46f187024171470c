//! Teams. The caller's role is read and judged inside the transaction of the act, so a role taken away is
//! gone for acts under way too.
//!
//! Owner of: teams (with keys.rs for the command line, departures.rs for their end); of team_members the birth with the team.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use wrenn_domain::account::TeamName;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::TEAMS_PER_USER_MAX;
use wrenn_domain::role::{Act, Role};

use super::audit::{NewAudit, note};
use super::outbound_jobs::{NewOutboundJob, enqueue};
use crate::error::corrupt;
use crate::{Store, StoreError};

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    pub id: TeamId,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
}

/// How an act on a team ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeamAct<T> {
    Done(T),
    /// No such team, or the caller is not in it.
    NotThere,
    /// The caller's role does not allow it.
    Refused,
    /// The person acted on is not there.
    NoTarget,
    /// Nothing changes: it is so already, or the name is taken.
    Already,
    /// As many as there may be.
    Full,
}

/// A team to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewTeam<'a> {
    pub id: TeamId,
    pub name: &'a TeamName,
    pub slug: &'a str,
    pub owner: UserId,
    /// The one its owner's logins begin in.
    pub is_default: bool,
}

impl Store {
    /// A user's teams with the role in each, oldest membership first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_list(&self, user: UserId) -> Result<Vec<(Team, Role)>, StoreError> {
        self.run("list teams", || async {
            let rows = sqlx::query(
                "SELECT t.*, m.role FROM team_members m JOIN teams t ON t.id = m.team_id
                 WHERE m.user_id = $1 AND t.deleted_at IS NULL ORDER BY m.created_at, t.id",
            )
            .bind(user.uuid())
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(|row| Ok((team(row)?, role(row)?))).collect()
        })
        .await
    }

    /// A team as one of its members sees it; none when the user is not in it.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_get(&self, id: TeamId, user: UserId) -> Result<Option<(Team, Role)>, StoreError> {
        self.run("look up a team", || async {
            let row = sqlx::query(
                "SELECT t.*, m.role FROM team_members m JOIN teams t ON t.id = m.team_id
                 WHERE m.user_id = $1 AND t.id = $2 AND t.deleted_at IS NULL",
            )
            .bind(user.uuid())
            .bind(id.uuid())
            .fetch_optional(&self.pool)
            .await?;
            row.map(|row| Ok((team(&row)?, role(&row)?))).transpose()
        })
        .await
    }

    /// The team a login of this user begins in: the default one, else the oldest membership.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_first(&self, user: UserId) -> Result<Option<(TeamId, Role)>, StoreError> {
        self.run("find a user's first team", || async {
            let row = sqlx::query(
                "SELECT t.id, m.role FROM team_members m JOIN teams t ON t.id = m.team_id
                 WHERE m.user_id = $1 AND t.deleted_at IS NULL ORDER BY NOT m.is_default, m.created_at, t.id LIMIT 1",
            )
            .bind(user.uuid())
            .fetch_optional(&self.pool)
            .await?;
            row.map(|row| Ok((TeamId::from_uuid(row.try_get("id")?), role(&row)?))).transpose()
        })
        .await
    }

    /// A team's name, for keys that belong to no user.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_name(&self, id: TeamId) -> Result<Option<String>, StoreError> {
        self.run("look up a team's name", || async {
            sqlx::query_scalar("SELECT name FROM teams WHERE id = $1 AND deleted_at IS NULL")
                .bind(id.uuid())
                .fetch_optional(&self.pool)
                .await
        })
        .await
    }

    /// Makes a team with its owner. False when the user is in as many as may be, or not active.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_create(
        &self,
        new: &NewTeam<'_>,
        audit: &[NewAudit],
        jobs: &[NewOutboundJob],
    ) -> Result<bool, StoreError> {
        self.run("make a team", || async {
            let mut tx = self.pool.begin().await?;
            // One at a time per user, so that the count holds.
            let active: Option<bool> =
                sqlx::query_scalar("SELECT true FROM users WHERE id = $1 AND status = 'active' FOR UPDATE")
                    .bind(new.owner.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM team_members WHERE user_id = $1")
                .bind(new.owner.uuid())
                .fetch_one(&mut *tx)
                .await?;
            if active.is_none() || count >= TEAMS_PER_USER_MAX {
                return Ok(false);
            }
            insert_team(&mut tx, new.id, new.name.as_str(), new.slug, new.owner, new.is_default).await?;
            note(&mut tx, audit).await?;
            enqueue(&mut tx, jobs).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Changes a team's name.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_rename(
        &self,
        id: TeamId,
        by: UserId,
        name: &TeamName,
        audit: &[NewAudit],
    ) -> Result<TeamAct<()>, StoreError> {
        self.run("rename a team", || async {
            let mut tx = self.pool.begin().await?;
            match acting_role(&mut tx, id, by).await? {
                None => return Ok(TeamAct::NotThere),
                Some(role) if !role.may(Act::Rename) => return Ok(TeamAct::Refused),
                Some(_) => {}
            }
            sqlx::query("UPDATE teams SET name = $2 WHERE id = $1")
                .bind(id.uuid())
                .bind(name.as_str())
                .execute(&mut *tx)
                .await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(()))
        })
        .await
    }
}

pub(super) async fn insert_team(
    tx: &mut PgConnection,
    id: TeamId,
    name: &str,
    slug: &str,
    owner: UserId,
    is_default: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO teams (id, name, slug) VALUES ($1, $2, $3)")
        .bind(id.uuid())
        .bind(name)
        .bind(slug)
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO team_members (team_id, user_id, role, is_default) VALUES ($1, $2, 'owner', $3)")
        .bind(id.uuid())
        .bind(owner.uuid())
        .bind(is_default)
        .execute(tx)
        .await?;
    Ok(())
}

/// The role of who acts. Locks the team: acts on one team come one after the other, so what was judged stays so until the
/// commit.
pub(super) async fn acting_role(
    tx: &mut PgConnection,
    team: TeamId,
    user: UserId,
) -> Result<Option<Role>, sqlx::Error> {
    let living: Option<bool> =
        sqlx::query_scalar("SELECT true FROM teams WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE")
            .bind(team.uuid())
            .fetch_optional(&mut *tx)
            .await?;
    match living {
        Some(_) => member_role(tx, team, user).await,
        None => Ok(None),
    }
}

pub(super) async fn member_role(
    tx: &mut PgConnection,
    team: TeamId,
    user: UserId,
) -> Result<Option<Role>, sqlx::Error> {
    let row = sqlx::query("SELECT role FROM team_members WHERE team_id = $1 AND user_id = $2")
        .bind(team.uuid())
        .bind(user.uuid())
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(role).transpose()
}

pub(super) fn team(row: &PgRow) -> Result<Team, sqlx::Error> {
    Ok(Team {
        id: TeamId::from_uuid(row.try_get("id")?),
        name: row.try_get("name")?,
        slug: row.try_get("slug")?,
        is_byoc: row.try_get("is_byoc")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(super) fn role(row: &PgRow) -> Result<Role, sqlx::Error> {
    row.try_get::<&str, _>("role")?.parse().map_err(|_| corrupt("team_members.role"))
}
