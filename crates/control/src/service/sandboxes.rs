//! Create, get, list, delete and ping of sandboxes.

use std::sync::Arc;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::metadata::Metadata;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sandbox::SandboxEvent;
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_store::pg::{
    Author, Change, Changed, Desired, NewAudit, NewSandbox, Origin, PlacedSandbox, Sandbox, Template, TemplateKind,
    Traffic,
};

use super::{lookup, metrics};
use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
use crate::extension::limits;
use crate::fault::FaultPoint;
use crate::fleet::FleetError;
use crate::scheduler::{self, policy::Source};

/// Template of a wish that names none.
pub const TEMPLATE_DEFAULT: &str = "minimal";

/// A valid wish for a sandbox.
#[derive(Debug, Clone)]
pub struct CreateSandbox {
    pub template: TemplateName,
    pub vcpus: Vcpus,
    pub memory: MemoryMib,
    pub disk: DiskMib,
    pub timeout: TimeoutSec,
    pub metadata: Metadata,
    pub traffic: Traffic,
}

/// Writes the wish onto a host and hands it to the starter. The sandbox is starting when this returns.
///
/// # Errors
/// When the template is not there, no host can take it, the team may not use as much, or the database is away.
pub async fn create(ctx: &Arc<Context>, actor: &Actor, request: CreateSandbox) -> Result<Sandbox, ServiceError> {
    let template = ctx.store.template_get(actor.team, &request.template).await?;
    let template = template.ok_or_else(|| no_template(&request.template))?;
    ctx.faults.reach(FaultPoint::CreateAccepted).await;
    let source = source_of(&template)?;
    let id = SandboxId::from_uuid(Uuid::new_v4());
    let author = actor.author();
    let audit = NewAudit::new(actor.team, author.clone(), "sandbox", "create").on(id);
    let new = NewSandbox {
        id,
        team: actor.team,
        key: actor.key.as_ref().map(|key| key.id),
        user: actor.user(),
        author,
        audit: vec![audit.with("template", &request.template)],
        template: request.template,
        template_id: template.id,
        // A memory snapshot fixes the sizes of what is made from it.
        vcpus: template.vcpus.unwrap_or(request.vcpus),
        memory: template.memory.unwrap_or(request.memory),
        // A captured disk cannot shrink.
        disk: template.disk.map_or(request.disk, |least| least.max(request.disk)),
        origin: Origin {
            snapshot: (template.kind == TemplateKind::Snapshot).then(|| template.id.snapshot()),
            default_user: template.default_user,
            default_env: template.default_env,
        },
        timeout: request.timeout,
        metadata: request.metadata.into_map(),
        traffic: request.traffic,
    };
    let quota = limits::of(ctx, actor.team).await?;
    let (sandbox, address) =
        scheduler::assign(&ctx.store, ctx.config.disk_overcommit, &new, source, ctx.owner, ctx.tuning.lease, &quota)
            .await?;
    ctx.faults.reach(FaultPoint::CreateStored).await;
    ctx.queues.starts.hand_over(PlacedSandbox { sandbox: sandbox.clone(), host_address: Some(address) });
    tracing::info!(sandbox = %sandbox.id, team = %actor.team, template = %sandbox.template, "{} is wanted", sandbox.id);
    Ok(sandbox)
}

/// Finds a sandbox of the caller's team, and how much of its disk it uses (MiB) if its host says so at once.
///
/// # Errors
/// When the team has no such sandbox, or the database is away.
pub async fn get(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<(Sandbox, Option<u32>), ServiceError> {
    let placed = ctx.store.sandbox_get_placed(actor.team, id).await?.ok_or_else(|| lookup::not_found(id))?;
    let used = metrics::disk_used_mib(ctx, &placed.sandbox, placed.host_address.as_deref()).await;
    Ok((placed.sandbox, used))
}

/// The team's sandboxes that are not over, newest first, and whether there are more than the list may hold.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(ctx: &Context, actor: &Actor) -> Result<(Vec<Sandbox>, bool), ServiceError> {
    Ok(ctx.store.sandbox_list(actor.team).await?)
}

/// Writes the wish that a sandbox ends and hands it to the stopper. Repeating it changes nothing.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn delete(ctx: &Arc<Context>, actor: &Actor, id: SandboxId) -> Result<Sandbox, ServiceError> {
    let sandbox = lookup::get(ctx, actor, id).await?;
    ctx.faults.reach(FaultPoint::DeleteAccepted).await;
    let author = actor.author();
    let audit = NewAudit::new(actor.team, author.clone(), "sandbox", "destroy").on(id).warning();
    end(ctx, sandbox, &author, vec![audit]).await
}

/// Ends a sandbox that was looked up already, on behalf of anybody who may.
pub(super) async fn end(
    ctx: &Arc<Context>,
    sandbox: Sandbox,
    author: &Author,
    audit: Vec<NewAudit>,
) -> Result<Sandbox, ServiceError> {
    let id = sandbox.id;
    let mut sandbox = sandbox;
    loop {
        let next = sandbox
            .state
            .after(SandboxEvent::Delete)
            .map_err(|refused| Failure::new(FailureKind::Conflict, refused.to_string()))?;
        if next == sandbox.state {
            return Ok(sandbox);
        }
        let change = Change {
            state: Some(next),
            desired: Some(Desired::Stopped),
            due_now: true,
            requested_by: Some(author.clone()),
            audit: audit.clone(),
            ..Change::default()
        };
        match ctx.store.sandbox_change(id, sandbox.generation, &change).await? {
            Changed::Applied(now) => {
                ctx.faults.reach(FaultPoint::DeleteStored).await;
                ctx.queues.stops.wake_for(id);
                tracing::info!(sandbox = %id, was = %sandbox.state, "{id} is to end");
                return Ok(*now);
            }
            // Every change moves the state machine on, so this ends.
            Changed::Stale(now) => sandbox = *now,
            Changed::Gone => return Err(lookup::not_found(id).into()),
        }
    }
}

/// Proves that the guest answers, and counts as activity.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn ping(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<(), ServiceError> {
    let address = lookup::running(ctx, actor, id).await?;
    let host = ctx.fleet.host(&address).map_err(guest_error)?;
    host.ping_sandbox(id).await.map_err(host_error)
}

/// Words what a host answers for a sandbox it does not run.
fn host_error(error: FleetError) -> ServiceError {
    match error {
        FleetError::Answered {
            code: connectrpc::ErrorCode::NotFound | connectrpc::ErrorCode::FailedPrecondition,
            ..
        } => Failure::new(FailureKind::NotRunning, "the capsule is not running on its host").into(),
        other => guest_error(other),
    }
}

/// The last bytes a running sandbox printed on its console.
///
/// # Errors
/// When the team has no such sandbox or its state does not allow this, or the database or its host is away.
pub async fn console(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<Vec<u8>, ServiceError> {
    let address = lookup::running(ctx, actor, id).await?;
    let host = ctx.fleet.host(&address).map_err(guest_error)?;
    host.get_console(id).await.map_err(host_error)
}

fn source_of(template: &Template) -> Result<Source, Failure> {
    match (template.kind, template.host) {
        (TemplateKind::Base, _) => Ok(Source::Image),
        (TemplateKind::Snapshot, Some(host)) => Ok(Source::OnHost(host)),
        (TemplateKind::Snapshot, None) => {
            Err(Failure::new(FailureKind::NoCapacity, format!("no host holds the template {}", template.name)))
        }
    }
}

fn no_template(name: &TemplateName) -> Failure {
    // Images are known from the hosts that hold them: before the first host answers there is not even this one.
    if name.as_str() == TEMPLATE_DEFAULT {
        return Failure::new(
            FailureKind::NoCapacity,
            format!("no host has reported the template {name} yet; try again"),
        );
    }
    Failure::not_found(format!("there is no template {name}; GET /v1/snapshots lists those there are"))
}
