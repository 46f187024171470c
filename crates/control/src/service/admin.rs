//! Acts of platform admins on all teams, users, capsules and templates. Whoever calls was let through as an admin.

use std::sync::Arc;

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{EventId, PLATFORM_TEAM, SandboxId, TeamId, UserId};
use wrenn_domain::quota::Limits;
use wrenn_store::pg::{AdminTeam, AdminUser, DeadLetter, NewAudit, Sandbox, Switched, Template};

use super::{revocation, sandboxes};
use crate::actor::Person;
use crate::context::Context;
use crate::error::ServiceError;

/// Pages beyond this are not asked for by people.
const PAGE_MAX: i64 = 1_000_000;

/// A page of all teams (from 1), and how many there are.
///
/// # Errors
/// When there is no such page, or the database is away.
pub async fn teams(ctx: &Context, page: i64) -> Result<(Vec<AdminTeam>, i64), ServiceError> {
    Ok(ctx.store.admin_team_list(index(page)?).await?)
}

/// A page of all users (from 1), and how many there are.
///
/// # Errors
/// When there is no such page, or the database is away.
pub async fn users(ctx: &Context, page: i64) -> Result<(Vec<AdminUser>, i64), ServiceError> {
    Ok(ctx.store.admin_user_list(index(page)?).await?)
}

fn index(page: i64) -> Result<i64, Failure> {
    if (1..=PAGE_MAX).contains(&page) { Ok(page - 1) } else { Err(Failure::invalid("page: a number from 1")) }
}

/// Deletes a team with its keys; its capsules are told to end.
///
/// # Errors
/// When there is no such thing, the act is not allowed, or the database is away.
pub async fn delete_team(ctx: &Context, admin: &Person, id: TeamId) -> Result<(), ServiceError> {
    let author = admin.author();
    let row = |team| NewAudit::new(team, author.clone(), "team", "delete").on(id).warning();
    let ended = ctx.store.team_delete_by_platform(id, &author, &[row(id), row(PLATFORM_TEAM)]).await?;
    let ended = ended.ok_or_else(|| Failure::not_found(format!("there is no team {id}")))?;
    revocation::forget(ctx, &ended).await;
    Ok(())
}

/// Shuts an account out, or lets it in again.
///
/// # Errors
/// When there is no such thing, the act is not allowed, or the database is away.
pub async fn set_active(ctx: &Context, admin: &Person, id: UserId, active: bool) -> Result<(), ServiceError> {
    if id == admin.user && !active {
        return Err(Failure::invalid("you cannot shut yourself out; ask another admin").into());
    }
    let author = admin.author();
    let action = if active { "activate" } else { "deactivate" };
    let audit = NewAudit::new(PLATFORM_TEAM, author.clone(), "user", action).on(id);
    let audit = if active { audit } else { audit.warning() };
    switched(ctx, ctx.store.user_set_active(id, active, &author, &[audit]).await?, id).await
}

/// Makes an account an admin, or takes that from it.
///
/// # Errors
/// When there is no such thing, the act is not allowed, or the database is away.
pub async fn set_admin(ctx: &Context, admin: &Person, id: UserId, to: bool) -> Result<(), ServiceError> {
    let action = if to { "grant_admin" } else { "revoke_admin" };
    let audit = NewAudit::new(PLATFORM_TEAM, admin.author(), "user", action).on(id).warning();
    switched(ctx, ctx.store.user_set_admin(id, to, &[audit]).await?, id).await
}

async fn switched(ctx: &Context, switched: Switched, id: UserId) -> Result<(), ServiceError> {
    match switched {
        Switched::Done(ended) => {
            revocation::forget(ctx, &ended).await;
            Ok(())
        }
        Switched::Gone => Err(Failure::not_found(format!("there is no such account {id}")).into()),
        Switched::LastAdmin => {
            let text = "this is the platform's last admin; make another one first";
            Err(Failure::new(FailureKind::Invalid, text).into())
        }
    }
}

/// Bounds that hold for a team; for the platform's, those of teams without their own.
///
/// # Errors
/// When the database cannot be asked.
pub async fn limits(ctx: &Context, team: TeamId) -> Result<Limits, ServiceError> {
    Ok(ctx.store.team_limits(team).await?)
}

/// Sets the bounds of a team; for the platform's, those of teams without their own.
///
/// # Errors
/// When there is no such team, or the database is away.
pub async fn set_limits(ctx: &Context, admin: &Person, team: TeamId, to: Limits) -> Result<(), ServiceError> {
    let audit = NewAudit::new(PLATFORM_TEAM, admin.author(), "team", "set_limits").on(team);
    match ctx.store.team_limits_set(team, to, &[audit]).await? {
        true => Ok(()),
        false => Err(Failure::not_found(format!("there is no team {team}")).into()),
    }
}

/// Capsules of all teams that are not over, and whether there are more.
///
/// # Errors
/// When the database cannot be asked.
pub async fn capsules(ctx: &Context) -> Result<(Vec<Sandbox>, bool), ServiceError> {
    Ok(ctx.store.admin_sandbox_list().await?)
}

/// Any team's capsule.
///
/// # Errors
/// When there is no such thing, the act is not allowed, or the database is away.
pub async fn capsule(ctx: &Context, id: SandboxId) -> Result<Sandbox, ServiceError> {
    let found = ctx.store.admin_sandbox_get(id).await?;
    Ok(found.ok_or_else(|| Failure::not_found(format!("there is no capsule {id}")))?)
}

/// Ends any team's capsule.
///
/// # Errors
/// When there is no such thing, the act is not allowed, or the database is away.
pub async fn delete_capsule(ctx: &Arc<Context>, admin: &Person, id: SandboxId) -> Result<(), ServiceError> {
    let sandbox = capsule(ctx, id).await?;
    let author = admin.author();
    let audit = NewAudit::new(PLATFORM_TEAM, author.clone(), "sandbox", "destroy").on(id).warning();
    sandboxes::end(ctx, sandbox, &author, vec![audit]).await.map(drop)
}

/// Templates of all teams.
///
/// # Errors
/// When the database cannot be asked.
pub async fn templates(ctx: &Context) -> Result<Vec<(TeamId, Template)>, ServiceError> {
    Ok(ctx.store.admin_template_list().await?)
}

/// Events whose delivery was given up.
///
/// # Errors
/// When the database cannot be asked.
pub async fn dead_letters(ctx: &Context) -> Result<Vec<DeadLetter>, ServiceError> {
    Ok(ctx.store.dead_letter_list().await?)
}

/// Gives a dead letter all its tries again.
///
/// # Errors
/// When there is no such thing, the act is not allowed, or the database is away.
pub async fn retry_dead_letter(ctx: &Context, group: &str, id: EventId) -> Result<(), ServiceError> {
    if !ctx.store.dead_letter_retry(group, id).await? {
        return Err(Failure::not_found("there is no such dead letter").into());
    }
    ctx.deliveries.notify_one();
    Ok(())
}
