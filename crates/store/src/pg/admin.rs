//! What platform admins see of all teams, and the switches on accounts.
//!
//! Owner of: users.is_admin and the switch between active and disabled.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wrenn_domain::account::{Email, PersonName, TeamName};
use wrenn_domain::ids::{PLATFORM_TEAM, SandboxId, TeamId, UserId};
use wrenn_domain::limits::{ADMIN_PAGE, LIST_TEMPLATES_MAX};

use super::account_deletion::{Ended, end_access, lock_admins, other_admins, stop_sandboxes};
use super::audit::{Author, NewAudit, note};
use super::sessions::next_generation;
use super::teams::{Team, insert_team, team};
use super::templates::template;
use super::users::{User, UserStatus, user};
use super::{Sandbox, Template};
use crate::{Store, StoreError};

/// A team with what it carries.
#[derive(Debug, Clone)]
pub struct AdminTeam {
    pub team: Team,
    pub deleted_at: Option<DateTime<Utc>>,
    pub member_count: i64,
    pub owner_name: Option<String>,
    pub owner_email: Option<String>,
    pub active_sandboxes: i64,
    pub running_vcpus: i64,
    pub running_memory_mib: i64,
}

/// A user with how many teams they are in.
#[derive(Clone)]
pub struct AdminUser {
    pub user: User,
    pub teams_joined: i64,
    pub teams_owned: i64,
}

/// How a switch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switched {
    Done(Ended),
    /// No such account, or one that is neither active nor disabled.
    Gone,
    /// The change would leave the platform without an admin.
    LastAdmin,
}

impl Store {
    /// Whether this account is an active platform admin now.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_is_admin(&self, id: UserId) -> Result<bool, StoreError> {
        self.run("look for an admin", || async {
            let found: Option<bool> =
                sqlx::query_scalar("SELECT true FROM users WHERE id = $1 AND is_admin AND status = 'active'")
                    .bind(id.uuid())
                    .fetch_optional(&self.pool)
                    .await?;
            Ok(found.is_some())
        })
        .await
    }

    /// One page (from 0) of all users, newest first, and how many there are.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn admin_user_list(&self, page: i64) -> Result<(Vec<AdminUser>, i64), StoreError> {
        self.run("list all users", || async {
            let rows = sqlx::query(
                "SELECT u.*, count(m.team_id) AS joined, count(m.team_id) FILTER (WHERE m.role = 'owner') AS owned
                 FROM users u LEFT JOIN (team_members m JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL)
                   ON m.user_id = u.id
                 GROUP BY u.id ORDER BY u.created_at DESC, u.id LIMIT $1 OFFSET $2",
            )
            .bind(ADMIN_PAGE)
            .bind(page.saturating_mul(ADMIN_PAGE))
            .fetch_all(&self.pool)
            .await?;
            let total = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&self.pool).await?;
            let users = rows.iter().map(|row| {
                Ok(AdminUser {
                    user: user(row)?,
                    teams_joined: row.try_get("joined")?,
                    teams_owned: row.try_get("owned")?,
                })
            });
            Ok((users.collect::<Result<_, sqlx::Error>>()?, total))
        })
        .await
    }

    /// One page (from 0) of all teams, newest first, and how many there are.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn admin_team_list(&self, page: i64) -> Result<(Vec<AdminTeam>, i64), StoreError> {
        self.run("list all teams", || async {
            let rows = sqlx::query(
                "SELECT t.*, o.name AS owner_name, o.email AS owner_email,
                   (SELECT count(*) FROM team_members m WHERE m.team_id = t.id) AS members,
                   coalesce(s.active, 0) AS active, coalesce(s.vcpus, 0) AS vcpus, coalesce(s.memory, 0) AS memory
                 FROM (SELECT * FROM teams WHERE id <> $3 ORDER BY created_at DESC, id LIMIT $1 OFFSET $2) t
                 LEFT JOIN team_members om ON om.team_id = t.id AND om.role = 'owner' LEFT JOIN users o ON o.id = om.user_id
                 LEFT JOIN LATERAL (SELECT count(*) AS active, sum(vcpus)::bigint AS vcpus, sum(memory_mib)::bigint AS memory
                   FROM sandboxes WHERE team_id = t.id
                     AND state IN ('starting', 'running', 'pausing', 'snapshotting', 'resuming', 'missing')) s ON true
                 ORDER BY t.created_at DESC, t.id",
            )
            .bind(ADMIN_PAGE)
            .bind(page.saturating_mul(ADMIN_PAGE))
            .bind(Uuid::nil())
            .fetch_all(&self.pool)
            .await?;
            let total = sqlx::query_scalar("SELECT count(*) - 1 FROM teams").fetch_one(&self.pool).await?;
            Ok((rows.iter().map(admin_team).collect::<Result<_, _>>()?, total))
        })
        .await
    }

    /// Sandboxes of all teams that are not over, newest first, and whether there are more.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn admin_sandbox_list(&self) -> Result<(Vec<Sandbox>, bool), StoreError> {
        self.list_living(None).await
    }

    /// A sandbox of whatever team.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn admin_sandbox_get(&self, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        Ok(self.sandbox_list_by_id(&[id]).await?.pop())
    }

    /// Templates of all teams, newest first.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn admin_template_list(&self) -> Result<Vec<(TeamId, Template)>, StoreError> {
        self.run("list all templates", || async {
            let rows =
                sqlx::query("SELECT * FROM templates WHERE state = 'ready' ORDER BY created_at DESC, id LIMIT $1")
                    .bind(LIST_TEMPLATES_MAX)
                    .fetch_all(&self.pool)
                    .await?;
            rows.iter().map(|row| Ok((TeamId::from_uuid(row.try_get("team_id")?), template(row)?))).collect()
        })
        .await
    }

    /// Lets an account in again, or shuts it out: sessions and keys end, and the sandboxes of the teams it owns.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_set_active(
        &self,
        id: UserId,
        active: bool,
        author: &Author,
        audit: &[NewAudit],
    ) -> Result<Switched, StoreError> {
        self.run_seen("switch an account", || async {
            let mut tx = self.pool.begin().await?;
            lock_admins(&mut tx).await?;
            let row = sqlx::query("SELECT * FROM users WHERE id = $1 AND status IN ('active', 'disabled') FOR UPDATE")
                .bind(id.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(now) = row.as_ref().map(user).transpose()? else { return Ok(Switched::Gone) };
            let wanted = if active { UserStatus::Active } else { UserStatus::Disabled };
            if now.status == wanted {
                return Ok(Switched::Done(Ended::default()));
            }
            if !active && now.is_admin && other_admins(&mut tx, id).await? == 0 {
                return Ok(Switched::LastAdmin);
            }
            sqlx::query("UPDATE users SET status = $2, updated_at = now() WHERE id = $1")
                .bind(id.uuid())
                .bind(wanted.as_str())
                .execute(&mut *tx)
                .await?;
            let mut ended = Ended::default();
            if !active {
                ended = Ended { keys: end_access(&mut tx, id).await?, users: vec![id] };
                let owned: Vec<Uuid> = sqlx::query_scalar(
                    "SELECT team_id FROM team_members WHERE user_id = $1 AND role = 'owner' ORDER BY team_id",
                )
                .bind(id.uuid())
                .fetch_all(&mut *tx)
                .await?;
                for team in owned {
                    stop_sandboxes(&mut tx, TeamId::from_uuid(team), author).await?;
                }
            }
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(Switched::Done(ended))
        })
        .await
    }

    /// Makes an active account a platform admin, or takes that from it.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_set_admin(&self, id: UserId, admin: bool, audit: &[NewAudit]) -> Result<Switched, StoreError> {
        self.run("switch an admin", || async {
            let mut tx = self.pool.begin().await?;
            lock_admins(&mut tx).await?;
            let row = sqlx::query("SELECT * FROM users WHERE id = $1 AND status = 'active' FOR UPDATE")
                .bind(id.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(now) = row.as_ref().map(user).transpose()? else { return Ok(Switched::Gone) };
            if now.is_admin == admin {
                return Ok(Switched::Done(Ended::default()));
            }
            if !admin && other_admins(&mut tx, id).await? == 0 {
                return Ok(Switched::LastAdmin);
            }
            sqlx::query("UPDATE users SET is_admin = $2, updated_at = now() WHERE id = $1")
                .bind(id.uuid())
                .bind(admin)
                .execute(&mut *tx)
                .await?;
            next_generation(&mut tx, id).await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(Switched::Done(Ended { keys: Vec::new(), users: vec![id] }))
        })
        .await
    }

    /// For the command line of whoever runs the server: an active account with this password and, if wanted, the rights of an
    /// admin; owner of the team of this name, when that team has none.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_ensure(&self, new: &EnsureUser) -> Result<UserId, StoreError> {
        self.run("find or make an account", || async {
            let mut tx = self.pool.begin().await?;
            lock_admins(&mut tx).await?;
            let id: Uuid = sqlx::query_scalar(
                "INSERT INTO users AS u (id, email, name, password_hash, status, first_team_id, is_admin)
                 VALUES ($1, $2, $3, $4, 'active', $5, $6)
                 ON CONFLICT (email) DO UPDATE SET password_hash = excluded.password_hash, status = 'active',
                   deleted_at = NULL, is_admin = u.is_admin OR excluded.is_admin,
                   session_generation = u.session_generation + 1, updated_at = now() RETURNING id",
            )
            .bind(new.id.uuid())
            .bind(new.email.as_str())
            .bind(new.name.as_str())
            .bind(&new.password_hash)
            .bind(new.first_team.uuid())
            .bind(new.admin)
            .fetch_one(&mut *tx)
            .await?;
            let user = UserId::from_uuid(id);
            sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(id).execute(&mut *tx).await?;
            if let Some(name) = &new.team {
                join_named(&mut tx, user, name).await?;
            }
            let teams: i64 = sqlx::query_scalar("SELECT count(*) FROM team_members WHERE user_id = $1")
                .bind(id)
                .fetch_one(&mut *tx)
                .await?;
            if teams == 0 {
                let name = TeamName::of_person(&new.name);
                insert_team(&mut tx, new.first_team, name.as_str(), &new.slug, user, true).await?;
            }
            let audit = NewAudit::new(PLATFORM_TEAM, Author::system(), "user", "ensure").on(user);
            note(&mut tx, &[audit.with("admin", new.admin)]).await?;
            tx.commit().await?;
            Ok(user)
        })
        .await
    }
}

/// Account that [`Store::user_ensure`] makes sure of.
#[derive(Clone)]
pub struct EnsureUser {
    pub id: UserId,
    pub first_team: TeamId,
    pub slug: String,
    pub email: Email,
    pub name: PersonName,
    pub password_hash: String,
    pub admin: bool,
    /// An existing team to own.
    pub team: Option<TeamName>,
}

async fn join_named(tx: &mut sqlx::PgConnection, user: UserId, name: &TeamName) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO team_members (team_id, user_id, role, is_default)
         SELECT t.id, $1, 'owner', true FROM teams t
         WHERE t.name = $2 AND t.deleted_at IS NULL AND t.id <> $3
           AND NOT EXISTS (SELECT 1 FROM team_members m WHERE m.team_id = t.id AND m.role = 'owner')
         ORDER BY t.created_at LIMIT 1
         ON CONFLICT (team_id, user_id) DO UPDATE SET role = 'owner'",
    )
    .bind(user.uuid())
    .bind(name.as_str())
    .bind(Uuid::nil())
    .execute(tx)
    .await
    .map(|_| ())
}

fn admin_team(row: &PgRow) -> Result<AdminTeam, sqlx::Error> {
    Ok(AdminTeam {
        team: team(row)?,
        deleted_at: row.try_get("deleted_at")?,
        member_count: row.try_get("members")?,
        owner_name: row.try_get("owner_name")?,
        owner_email: row.try_get("owner_email")?,
        active_sandboxes: row.try_get("active")?,
        running_vcpus: row.try_get("vcpus")?,
        running_memory_mib: row.try_get("memory")?,
    })
}
