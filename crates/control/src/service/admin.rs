//! Acts of platform admins on all teams, users, capsules and templates. Whoever calls was let through as an admin.

use std::sync::Arc;

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{EventId, PLATFORM_TEAM, SandboxId, TeamId, UserId};
use wrenn_store::pg::{AdminTeam, AdminUser, DeadLetter, NewAudit, Sandbox, Switched, Template};

use super::{Person, ServiceError, sandboxes, sessions};
use crate::context::Context;

/// Pages beyond this are not asked for by people.
const PAGE_MAX: i64 = 1_000_000;

/// A page of all teams (from 1), and how many there are.
pub async fn teams(ctx: &Context, page: i64) -> Result<(Vec<AdminTeam>, i64), ServiceError> {
    Ok(ctx.store.admin_team_list(index(page)?).await?)
}

/// A page of all users (from 1), and how many there are.
pub async fn users(ctx: &Context, page: i64) -> Result<(Vec<AdminUser>, i64), ServiceError> {
    Ok(ctx.store.admin_user_list(index(page)?).await?)
}

fn index(page: i64) -> Result<i64, Failure> {
    if (1..=PAGE_MAX).contains(&page) { Ok(page - 1) } else { Err(Failure::invalid("page: a number from 1")) }
}

/// Deletes a team with its keys; its capsules are told to end.
pub async fn delete_team(ctx: &Context, admin: &Person, id: TeamId) -> Result<(), ServiceError> {
    let author = admin.author();
    let row = |team| NewAudit::new(team, author.clone(), "team", "delete").on(id).warning();
    let ended = ctx.store.team_delete_by_platform(id, &author, &[row(id), row(PLATFORM_TEAM)]).await?;
    let ended = ended.ok_or_else(|| Failure::not_found(format!("there is no team {id}")))?;
    sessions::forget(ctx, &ended).await;
    Ok(())
}

/// Shuts an account out, or lets it in again.
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
pub async fn set_admin(ctx: &Context, admin: &Person, id: UserId, to: bool) -> Result<(), ServiceError> {
    let action = if to { "grant_admin" } else { "revoke_admin" };
    let audit = NewAudit::new(PLATFORM_TEAM, admin.author(), "user", action).on(id).warning();
    switched(ctx, ctx.store.user_set_admin(id, to, &[audit]).await?, id).await
}

async fn switched(ctx: &Context, switched: Switched, id: UserId) -> Result<(), ServiceError> {
    match switched {
        Switched::Done(ended) => {
            sessions::forget(ctx, &ended).await;
            Ok(())
        }
        Switched::Gone => Err(Failure::not_found(format!("there is no such account {id}")).into()),
        Switched::LastAdmin => {
            let text = "this is the platform's last admin; make another one first";
            Err(Failure::new(FailureKind::Invalid, text).into())
        }
    }
}

/// Capsules of all teams that are not over, and whether there are more.
pub async fn capsules(ctx: &Context) -> Result<(Vec<Sandbox>, bool), ServiceError> {
    Ok(ctx.store.admin_sandbox_list().await?)
}

/// Any team's capsule.
pub async fn capsule(ctx: &Context, id: SandboxId) -> Result<Sandbox, ServiceError> {
    let found = ctx.store.admin_sandbox_get(id).await?;
    Ok(found.ok_or_else(|| Failure::not_found(format!("there is no capsule {id}")))?)
}

/// Ends any team's capsule.
pub async fn delete_capsule(ctx: &Arc<Context>, admin: &Person, id: SandboxId) -> Result<(), ServiceError> {
    let sandbox = capsule(ctx, id).await?;
    let author = admin.author();
    let audit = NewAudit::new(PLATFORM_TEAM, author.clone(), "sandbox", "destroy").on(id).warning();
    sandboxes::end(ctx, sandbox, &author, vec![audit]).await.map(drop)
}

/// Templates of all teams.
pub async fn templates(ctx: &Context) -> Result<Vec<(TeamId, Template)>, ServiceError> {
    Ok(ctx.store.admin_template_list().await?)
}

/// Events whose delivery was given up.
pub async fn dead_letters(ctx: &Context) -> Result<Vec<DeadLetter>, ServiceError> {
    Ok(ctx.store.dead_letter_list().await?)
}

/// Gives a dead letter all its tries again.
pub async fn retry_dead_letter(ctx: &Context, group: &str, id: EventId) -> Result<(), ServiceError> {
    if !ctx.store.dead_letter_retry(group, id).await? {
        return Err(Failure::not_found("there is no such dead letter").into());
    }
    ctx.deliveries.notify_one();
    Ok(())
}
