//! Who is in a team, and as what. As in teams.rs, the caller's role is judged inside the transaction of the act.
//!
//! Owner of: team_members.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::account::Email;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::MEMBERS_PER_TEAM_MAX;
use wrenn_domain::role::{Act, Role};

use super::audit::{NewAudit, note};
use super::outbound_jobs::{NewOutboundJob, enqueue};
use super::sessions::next_generation;
use super::teams::{TeamAct, acting_role, member_role, role};
use crate::{Store, StoreError};

/// Somebody in a team.
#[derive(Debug, Clone)]
pub struct Member {
    pub user: UserId,
    pub name: String,
    pub email: String,
    pub role: Role,
    pub joined_at: DateTime<Utc>,
}

impl Store {
    /// A team's members, owner first; none when the user is not one of them.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn member_list(&self, id: TeamId, user: UserId) -> Result<Option<Vec<Member>>, StoreError> {
        self.run("list members", || async {
            let rows = sqlx::query(
                "SELECT u.id, u.name, u.email, m.role, m.created_at FROM team_members m
                 JOIN users u ON u.id = m.user_id JOIN teams t ON t.id = m.team_id
                 WHERE m.team_id = $1 AND t.deleted_at IS NULL
                   AND EXISTS (SELECT 1 FROM team_members me WHERE me.team_id = $1 AND me.user_id = $2)
                 ORDER BY m.role <> 'owner', m.created_at, u.id",
            )
            .bind(id.uuid())
            .bind(user.uuid())
            .fetch_all(&self.pool)
            .await?;
            let members = rows.iter().map(member).collect::<Result<Vec<_>, _>>()?;
            Ok(if members.is_empty() { None } else { Some(members) })
        })
        .await
    }

    /// Adds an active account as a member.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn member_add(
        &self,
        id: TeamId,
        by: UserId,
        email: &Email,
        audit: impl Fn(UserId) -> NewAudit,
        job: impl Fn(&Member, &str) -> NewOutboundJob,
    ) -> Result<TeamAct<Member>, StoreError> {
        let (audit, job) = (&audit, &job);
        self.run("add a member", || async move {
            let mut tx = self.pool.begin().await?;
            match acting_role(&mut tx, id, by).await? {
                None => return Ok(TeamAct::NotThere),
                Some(role) if !role.may(Act::AddMember) => return Ok(TeamAct::Refused),
                Some(_) => {}
            }
            let target: Option<Uuid> =
                sqlx::query_scalar("SELECT id FROM users WHERE email = $1 AND status = 'active' FOR SHARE")
                    .bind(email.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
            let Some(target) = target else { return Ok(TeamAct::NoTarget) };
            // The team's row is locked, so the count cannot grow meanwhile.
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM team_members WHERE team_id = $1")
                .bind(id.uuid())
                .fetch_one(&mut *tx)
                .await?;
            if count >= MEMBERS_PER_TEAM_MAX {
                return Ok(TeamAct::Full);
            }
            let done = sqlx::query(
                "INSERT INTO team_members (team_id, user_id, role) VALUES ($1, $2, 'member') ON CONFLICT DO NOTHING",
            )
            .bind(id.uuid())
            .bind(target)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(TeamAct::Already);
            }
            note(&mut tx, &[audit(UserId::from_uuid(target))]).await?;
            let row = sqlx::query(
                "SELECT u.id, u.name, u.email, m.role, m.created_at, t.name AS team FROM team_members m
                 JOIN users u ON u.id = m.user_id JOIN teams t ON t.id = m.team_id
                 WHERE m.team_id = $1 AND m.user_id = $2",
            )
            .bind(id.uuid())
            .bind(target)
            .fetch_one(&mut *tx)
            .await?;
            let added = member(&row)?;
            enqueue(&mut tx, &[job(&added, row.try_get("team")?)]).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(added))
        })
        .await
    }

    /// Changes a member's role.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn member_set_role(
        &self,
        id: TeamId,
        by: UserId,
        target: UserId,
        to: Role,
        audit: &[NewAudit],
    ) -> Result<TeamAct<()>, StoreError> {
        self.run("change a member's role", || async {
            let mut tx = self.pool.begin().await?;
            let Some(mine) = acting_role(&mut tx, id, by).await? else { return Ok(TeamAct::NotThere) };
            let Some(theirs) = member_role(&mut tx, id, target).await? else { return Ok(TeamAct::NoTarget) };
            if !mine.may(Act::ChangeRole(theirs, to)) {
                return Ok(TeamAct::Refused);
            }
            put_role(&mut tx, id, target, to).await?;
            next_generation(&mut tx, target).await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(()))
        })
        .await
    }

    /// Makes `target` the owner and the owner an admin, in one step: the team never has two or none.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_transfer(
        &self,
        id: TeamId,
        by: UserId,
        target: UserId,
        audit: &[NewAudit],
    ) -> Result<TeamAct<()>, StoreError> {
        self.run("transfer a team", || async {
            let mut tx = self.pool.begin().await?;
            let Some(mine) = acting_role(&mut tx, id, by).await? else { return Ok(TeamAct::NotThere) };
            if !mine.may(Act::TransferOwnership) {
                return Ok(TeamAct::Refused);
            }
            if target == by {
                return Ok(TeamAct::Already);
            }
            // An account on its way out must not get a team.
            let active: Option<bool> =
                sqlx::query_scalar("SELECT true FROM users WHERE id = $1 AND status = 'active' FOR SHARE")
                    .bind(target.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            if active.is_none() || member_role(&mut tx, id, target).await?.is_none() {
                return Ok(TeamAct::NoTarget);
            }
            put_role(&mut tx, id, by, Role::Admin).await?;
            put_role(&mut tx, id, target, Role::Owner).await?;
            for user in [by, target] {
                next_generation(&mut tx, user).await?;
            }
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(()))
        })
        .await
    }

    /// Removes a member, or lets one leave (`target` is `by`). The member's keys of this team are taken back with it; their
    /// hashes (hex) are answered.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn member_remove(
        &self,
        id: TeamId,
        by: UserId,
        target: UserId,
        audit: &[NewAudit],
    ) -> Result<TeamAct<Vec<String>>, StoreError> {
        self.run("remove a member", || async {
            let mut tx = self.pool.begin().await?;
            let Some(mine) = acting_role(&mut tx, id, by).await? else { return Ok(TeamAct::NotThere) };
            let Some(theirs) = member_role(&mut tx, id, target).await? else { return Ok(TeamAct::NoTarget) };
            let act = if by == target { Act::Leave } else { Act::RemoveMember(theirs) };
            if !mine.may(act) {
                return Ok(TeamAct::Refused);
            }
            sqlx::query("DELETE FROM team_members WHERE team_id = $1 AND user_id = $2")
                .bind(id.uuid())
                .bind(target.uuid())
                .execute(&mut *tx)
                .await?;
            let hashes = sqlx::query_scalar(
                "UPDATE team_api_keys SET revoked_at = now()
                 WHERE team_id = $1 AND (created_by = $2 OR acts_for = $2) AND revoked_at IS NULL RETURNING key_hash",
            )
            .bind(id.uuid())
            .bind(target.uuid())
            .fetch_all(&mut *tx)
            .await?;
            next_generation(&mut tx, target).await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(hashes))
        })
        .await
    }
}

async fn put_role(tx: &mut PgConnection, team: TeamId, user: UserId, to: Role) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE team_members SET role = $3 WHERE team_id = $1 AND user_id = $2")
        .bind(team.uuid())
        .bind(user.uuid())
        .bind(to.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

fn member(row: &PgRow) -> Result<Member, sqlx::Error> {
    Ok(Member {
        user: UserId::from_uuid(row.try_get("id")?),
        name: row.try_get("name")?,
        email: row.try_get("email")?,
        role: role(row)?,
        joined_at: row.try_get("created_at")?,
    })
}
