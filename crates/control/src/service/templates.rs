//! Templates a team can create sandboxes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use wrenn_domain::event::{EventType, Outcome};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::EventId;
use wrenn_domain::names::TemplateName;
use wrenn_store::pg::{NewAudit, NewEvent, Template, TemplateKind};

use super::{Actor, ServiceError, chance};
use crate::context::Context;
use crate::fault::FaultPoint;

/// The team's own and the platform's, newest first.
pub async fn list(ctx: &Context, actor: &Actor, kind: Option<TemplateKind>) -> Result<Vec<Template>, ServiceError> {
    Ok(ctx.store.template_list(actor.team, kind).await?)
}

/// Removes one of the team's own. Its files at the host follow, whenever that host can be reached.
pub async fn delete(ctx: &Arc<Context>, actor: &Actor, name: &TemplateName) -> Result<(), ServiceError> {
    let Some(template) = ctx.store.template_get(actor.team, name).await? else {
        if ctx.store.snapshot_is_pending(actor.team, name).await? {
            let text = format!("the template {name} is still being made; delete it when that is over");
            return Err(Failure::new(FailureKind::Conflict, text).into());
        }
        return Err(Failure::not_found(format!(
            "there is no template {name}; GET /v1/snapshots lists those there are"
        ))
        .into());
    };
    if template.platform || template.protected {
        let text = format!("the template {name} is protected: it belongs to everybody and cannot be deleted");
        return Err(Failure::new(FailureKind::Forbidden, text).into());
    }
    ctx.faults.reach(FaultPoint::TemplateDeleteAccepted).await;
    let audit = NewAudit::new(actor.team, actor.author(), "snapshot", "delete").on(name).warning();
    let event = NewEvent {
        id: EventId::from_uuid(chance::id()),
        kind: EventType::SnapshotDelete,
        outcome: Some(Outcome::Success),
        team: actor.team,
        author: actor.author(),
        resource_type: "snapshot",
        resource_id: name.to_string(),
        metadata: BTreeMap::new(),
        error: None,
    };
    ctx.store.template_delete(template.id, &[event], &[audit]).await?;
    ctx.outbox.notify_one();
    ctx.faults.reach(FaultPoint::TemplateDeleteStored).await;
    ctx.discards.wake_for(template.id);
    tracing::info!(template = %template.id, team = %actor.team, "the template {name} is deleted");
    Ok(())
}
