//! The end of teams and accounts, and all that ends with them.
//!
//! Owner of: teams.deleted_at, users.deleted_at. A team's sandboxes are wished to stop here, in the same transaction; the
//! stopper brings it about.

use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::role::Act;

use super::audit::{Author, AuthorJson, NewAudit, note};
use super::outbound_jobs::{NewOutboundJob, enqueue};
use super::sessions::next_generation;
use super::signals::DUE_CHANNEL;
use super::teams::{TeamAct, acting_role};
use super::users::{User, user};
use crate::{Store, StoreError};

/// Cached keys and sessions that callers must forget after the end of a team or account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Hashes (hex) of API keys that are dead.
    pub keys: Vec<String>,
    /// Users whose cached sessions say something wrong.
    pub users: Vec<UserId>,
}

/// How the wish to delete an account ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    Done(Ended),
    /// The user owns teams others are in.
    OwnsTeams,
    /// The account is the last admin of the platform.
    LastAdmin,
    /// No such active account.
    Gone,
}

impl Store {
    /// Deletes a team on behalf of a member: it is gone for everybody at once, its sandboxes are wished to stop.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_delete(
        &self,
        id: TeamId,
        by: UserId,
        author: &Author,
        audit: &[NewAudit],
    ) -> Result<TeamAct<Ended>, StoreError> {
        self.run_seen("delete a team", || async {
            let mut tx = self.pool.begin().await?;
            match acting_role(&mut tx, id, by).await? {
                None => return Ok(TeamAct::NotThere),
                Some(role) if !role.may(Act::Delete) => return Ok(TeamAct::Refused),
                Some(_) => {}
            }
            let ended = end_team(&mut tx, id, author).await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(TeamAct::Done(ended))
        })
        .await
    }

    /// Deletes any team but the platform's. None when there is no such team.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn team_delete_by_platform(
        &self,
        id: TeamId,
        author: &Author,
        audit: &[NewAudit],
    ) -> Result<Option<Ended>, StoreError> {
        self.run_seen("delete a team", || async {
            let mut tx = self.pool.begin().await?;
            let living: Option<bool> = sqlx::query_scalar(
                "SELECT true FROM teams WHERE id = $1 AND id <> $2 AND deleted_at IS NULL FOR NO KEY UPDATE",
            )
            .bind(id.uuid())
            .bind(Uuid::nil())
            .fetch_optional(&mut *tx)
            .await?;
            if living.is_none() {
                return Ok(None);
            }
            let ended = end_team(&mut tx, id, author).await?;
            note(&mut tx, audit).await?;
            tx.commit().await?;
            Ok(Some(ended))
        })
        .await
    }

    /// Deletes an account softly: it can do nothing any more, its own teams are gone, its row is kept for the purge.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_depart(
        &self,
        id: UserId,
        author: &Author,
        audit: impl Fn(TeamId) -> NewAudit,
        jobs: &[NewOutboundJob],
    ) -> Result<Departure, StoreError> {
        let audit = &audit;
        self.run_seen("delete an account", || async move {
            let mut tx = self.pool.begin().await?;
            // Orders this against other changes of who is admin.
            lock_admins(&mut tx).await?;
            let row = sqlx::query("SELECT * FROM users WHERE id = $1 AND status = 'active' FOR UPDATE")
                .bind(id.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(user) = row.as_ref().map(user).transpose()? else { return Ok(Departure::Gone) };
            if user.is_admin && other_admins(&mut tx, id).await? == 0 {
                return Ok(Departure::LastAdmin);
            }
            let owned: Vec<Uuid> = sqlx::query_scalar(
                "SELECT t.id FROM teams t JOIN team_members m ON m.team_id = t.id
                 WHERE m.user_id = $1 AND m.role = 'owner' AND t.deleted_at IS NULL ORDER BY t.id
                 FOR NO KEY UPDATE OF t",
            )
            .bind(id.uuid())
            .fetch_all(&mut *tx)
            .await?;
            let others: i64 =
                sqlx::query_scalar("SELECT count(*) FROM team_members WHERE team_id = ANY($1) AND user_id <> $2")
                    .bind(&owned)
                    .bind(id.uuid())
                    .fetch_one(&mut *tx)
                    .await?;
            if others > 0 {
                return Ok(Departure::OwnsTeams);
            }
            let mut all = Ended { users: vec![id], keys: Vec::new() };
            for team in owned.into_iter().map(TeamId::from_uuid) {
                let ended = end_team(&mut tx, team, author).await?;
                all.keys.extend(ended.keys);
                note(&mut tx, &[audit(team)]).await?;
            }
            sqlx::query("UPDATE users SET status = 'deleted', is_admin = false, deleted_at = now() WHERE id = $1")
                .bind(id.uuid())
                .execute(&mut *tx)
                .await?;
            all.keys.extend(end_access(&mut tx, id).await?);
            sqlx::query("DELETE FROM team_members WHERE user_id = $1 AND role <> 'owner'")
                .bind(id.uuid())
                .execute(&mut *tx)
                .await?;
            enqueue(&mut tx, jobs).await?;
            tx.commit().await?;
            Ok(Departure::Done(all))
        })
        .await
    }

    /// Removes what is left of one account deleted longer ago than `kept` (seconds), and its name from the audit log. Answers
    /// whom. What is `owed` to it, and to those who hear of it, is written with it.
    ///
    /// # Errors
    /// When the database is away or a row does not parse.
    pub async fn user_purge_one(
        &self,
        kept_secs: f64,
        job: impl Fn(&User) -> Vec<NewOutboundJob>,
    ) -> Result<Option<User>, StoreError> {
        let job = &job;
        self.run("purge an account", || async move {
            let mut tx = self.pool.begin().await?;
            let row = sqlx::query(
                "SELECT * FROM users WHERE status = 'deleted' AND deleted_at <= now() - $1 * interval '1 second'
                 ORDER BY deleted_at LIMIT 1 FOR UPDATE SKIP LOCKED",
            )
            .bind(kept_secs)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(gone) = row.as_ref().map(user).transpose()? else { return Ok(None) };
            let id = gone.id.to_string();
            sqlx::query("UPDATE audit_logs SET actor_id = NULL, actor_name = 'deleted-user' WHERE actor_id = $1")
                .bind(&id)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "UPDATE audit_logs SET resource_id = NULL, metadata = metadata - 'email' WHERE resource_id = $1",
            )
            .bind(&id)
            .execute(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM users WHERE id = $1").bind(gone.id.uuid()).execute(&mut *tx).await?;
            enqueue(&mut tx, &job(&gone)).await?;
            tx.commit().await?;
            Ok(Some(gone))
        })
        .await
    }
}

/// Ends everything a team has. Its row must be locked.
async fn end_team(tx: &mut PgConnection, id: TeamId, author: &Author) -> Result<Ended, sqlx::Error> {
    sqlx::query("UPDATE teams SET deleted_at = now() WHERE id = $1").bind(id.uuid()).execute(&mut *tx).await?;
    super::notification_channels::forget(tx, id).await?;
    let keys = sqlx::query_scalar(
        "UPDATE team_api_keys SET revoked_at = now() WHERE team_id = $1 AND revoked_at IS NULL RETURNING key_hash",
    )
    .bind(id.uuid())
    .fetch_all(&mut *tx)
    .await?;
    stop_sandboxes(tx, id, author).await?;
    let members: Vec<Uuid> = sqlx::query_scalar("SELECT user_id FROM team_members WHERE team_id = $1 ORDER BY user_id")
        .bind(id.uuid())
        .fetch_all(&mut *tx)
        .await?;
    let mut users = Vec::with_capacity(members.len());
    for member in members.into_iter().map(UserId::from_uuid) {
        next_generation(tx, member).await?;
        users.push(member);
    }
    Ok(Ended { keys, users })
}

/// The wish that all of a team's sandboxes end. The state machine allows a delete in every state but these two.
pub(super) async fn stop_sandboxes(tx: &mut PgConnection, team: TeamId, author: &Author) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE sandboxes SET state = 'stopping', desired = 'stopped', generation = generation + 1, updated_at = now(),
           lease_owner = NULL, lease_until = NULL, attempts = 0, next_attempt_at = now(), requested_by = $2,
           moved_at = NULL
         WHERE team_id = $1 AND state NOT IN ('stopping', 'stopped')",
    )
    .bind(team.uuid())
    .bind(Json(AuthorJson::from(author)))
    .execute(&mut *tx)
    .await?;
    // No id: many may have become due. Heard at the commit.
    sqlx::query("SELECT pg_notify($1, '')").bind(DUE_CHANNEL).execute(tx).await?;
    Ok(())
}

/// Takes back all a person could get in by: sessions, keys made or held, tokens in mails. Answers the keys' hashes.
pub(super) async fn end_access(tx: &mut PgConnection, id: UserId) -> Result<Vec<String>, sqlx::Error> {
    next_generation(tx, id).await?;
    for statement in [
        "DELETE FROM sessions WHERE user_id = $1",
        "DELETE FROM account_tokens WHERE user_id = $1",
        "DELETE FROM device_logins WHERE user_id = $1",
        "DELETE FROM oauth_states WHERE link_user_id = $1",
    ] {
        sqlx::query(statement).bind(id.uuid()).execute(&mut *tx).await?;
    }
    let rows = sqlx::query(
        "UPDATE team_api_keys SET revoked_at = now()
         WHERE (created_by = $1 OR acts_for = $1) AND revoked_at IS NULL RETURNING key_hash",
    )
    .bind(id.uuid())
    .fetch_all(tx)
    .await?;
    rows.iter().map(|row| row.try_get("key_hash")).collect()
}

/// Changes of who is admin come one after the other.
pub(super) async fn lock_admins(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('wrenn:admins', 0))").execute(tx).await.map(|_| ())
}

/// Active admins beside this user.
pub(super) async fn other_admins(tx: &mut PgConnection, id: UserId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM users WHERE is_admin AND status = 'active' AND id <> $1")
        .bind(id.uuid())
        .fetch_one(tx)
        .await
}
