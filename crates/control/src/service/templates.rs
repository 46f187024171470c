//! Templates a team can create sandboxes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use wrenn_domain::event::{EventType, Outcome};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{EventId, PLATFORM_TEAM, TeamId};
use wrenn_domain::names::TemplateName;
use wrenn_store::pg::{Author, NewAudit, NewEvent, Template, TemplateKind};

use crate::actor::{Actor, Person};
use crate::context::Context;
use crate::error::ServiceError;
use crate::fault::FaultPoint;
use crate::random;

/// The team's own and the platform's, newest first.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(ctx: &Context, actor: &Actor, kind: Option<TemplateKind>) -> Result<Vec<Template>, ServiceError> {
    Ok(ctx.store.template_list(actor.team, kind).await?)
}

/// Removes one of the team's own. Its files at the host follow, whenever that host can be reached.
///
/// # Errors
/// When there is no such template, it is protected, or the database is away.
pub async fn delete(ctx: &Arc<Context>, actor: &Actor, name: &TemplateName) -> Result<(), ServiceError> {
    let template = find(ctx, actor.team, name).await?;
    if template.platform || template.protected {
        return Err(protected(name).into());
    }
    let audit = NewAudit::new(actor.team, actor.author(), "snapshot", "delete").on(name).warning();
    remove(ctx, &template, actor.team, actor.author(), &[audit]).await
}

/// The template a name means to a team.
async fn find(ctx: &Context, team: TeamId, name: &TemplateName) -> Result<Template, ServiceError> {
    if let Some(template) = ctx.store.template_get(team, name).await? {
        return Ok(template);
    }
    if ctx.store.snapshot_is_pending(team, name).await? {
        let text = format!("the template {name} is still being made; delete it when that is over");
        return Err(Failure::new(FailureKind::Conflict, text).into());
    }
    let text = format!("there is no template {name}; GET /v1/snapshots lists those there are");
    Err(Failure::not_found(text).into())
}

fn protected(name: &TemplateName) -> Failure {
    let text = format!("the template {name} is protected: it belongs to everybody and cannot be deleted");
    Failure::new(FailureKind::Forbidden, text)
}

/// Removes a platform template or, for a platform admin, any team's.
///
/// # Errors
/// When there is no such template, it is protected, or the database is away.
pub async fn delete_any(
    ctx: &Arc<Context>,
    admin: &Person,
    team: TeamId,
    name: &TemplateName,
) -> Result<(), ServiceError> {
    let template = find(ctx, team, name).await?;
    // A name a team has none of means the platform's.
    if template.platform != (team == PLATFORM_TEAM) {
        return Err(Failure::not_found(format!("the team {team} has no template {name}")).into());
    }
    if template.protected {
        return Err(protected(name).into());
    }
    let row = |of| NewAudit::new(of, admin.author(), "template", "delete").on(name).warning();
    let mut audit = vec![row(PLATFORM_TEAM).with("team_id", team)];
    if team != PLATFORM_TEAM {
        audit.push(row(team));
    }
    remove(ctx, &template, team, admin.author(), &audit).await
}

async fn remove(
    ctx: &Context,
    template: &Template,
    team: TeamId,
    author: Author,
    audit: &[NewAudit],
) -> Result<(), ServiceError> {
    ctx.faults.reach(FaultPoint::TemplateDeleteAccepted).await;
    let name = &template.name;
    let event = NewEvent {
        id: EventId::from_uuid(random::id()),
        kind: EventType::SnapshotDelete,
        outcome: Some(Outcome::Success),
        team,
        author,
        resource_type: "snapshot",
        resource_id: name.to_string(),
        metadata: BTreeMap::new(),
        error: None,
    };
    ctx.store.template_delete(template.id, &[event], audit).await?;
    ctx.outbox.notify_one();
    ctx.faults.reach(FaultPoint::TemplateDeleteStored).await;
    ctx.queues.discards.wake_for(template.id.snapshot().job());
    tracing::info!(template = %template.id, %team, "the template {name} is deleted");
    Ok(())
}
