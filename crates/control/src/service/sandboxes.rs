//! Create, get, list, delete and ping of sandboxes.

use std::sync::Arc;

use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::metadata::Metadata;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sandbox::{SandboxEvent, SandboxState};
use wrenn_domain::sizes::{DiskMib, MemoryMib, TimeoutSec, Vcpus};
use wrenn_store::pg::{
    Author, Change, Changed, Desired, NewAudit, NewSandbox, Origin, PlacedSandbox, Sandbox, Template, TemplateKind,
    Traffic,
};

use super::{Actor, ServiceError, guest_error, metrics};
use crate::context::Context;
use crate::extension::limits;
use crate::fault::FaultPoint;
use crate::fleet::{FleetError, GuestClient};
use crate::scheduler::{self, Source};

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
pub async fn create(ctx: &Arc<Context>, actor: &Actor, wish: CreateSandbox) -> Result<Sandbox, ServiceError> {
    let template = ctx.store.template_get(actor.team, &wish.template).await?;
    let template = template.ok_or_else(|| no_template(&wish.template))?;
    ctx.faults.reach(FaultPoint::CreateAccepted).await;
    let source = source_of(&template)?;
    let sized = |stored: Option<u32>| stored.map(i64::from);
    let id = SandboxId::from_uuid(Uuid::new_v4());
    let author = actor.author();
    let audit = NewAudit::new(actor.team, author.clone(), "sandbox", "create").on(id);
    let new = NewSandbox {
        id,
        team: actor.team,
        key: actor.key.as_ref().map(|key| key.id),
        user: actor.user(),
        author,
        audit: vec![audit.with("template", &wish.template)],
        template: wish.template,
        template_id: template.id,
        // A memory snapshot fixes the sizes of what is made from it.
        vcpus: sized(template.vcpus).map(Vcpus::parse).transpose()?.unwrap_or(wish.vcpus),
        memory: sized(template.memory_mib).map(MemoryMib::parse).transpose()?.unwrap_or(wish.memory),
        // A captured disk cannot shrink.
        disk: sized(template.disk_mib).map(DiskMib::parse).transpose()?.map_or(wish.disk, |least| least.max(wish.disk)),
        origin: Origin {
            snapshot: (template.kind == TemplateKind::Snapshot).then_some(template.id),
            default_user: template.default_user,
            default_env: template.default_env,
        },
        timeout: wish.timeout,
        metadata: wish.metadata.into_map(),
        traffic: wish.traffic,
    };
    let quota = limits::of(ctx, actor.team).await?;
    let (sandbox, address) = scheduler::place(&ctx.store, &new, source, ctx.owner, ctx.tuning.lease, &quota).await?;
    ctx.faults.reach(FaultPoint::CreateStored).await;
    ctx.starts.hand_over(PlacedSandbox { sandbox: sandbox.clone(), host_address: Some(address) });
    tracing::info!(sandbox = %sandbox.id, team = %actor.team, template = %sandbox.template, "{} is wanted", sandbox.id);
    Ok(sandbox)
}

/// One sandbox of the caller's team.
pub async fn get(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<Sandbox, ServiceError> {
    Ok(ctx.store.sandbox_get(actor.team, id).await?.ok_or_else(|| not_found(id))?)
}

/// The same with what its disk uses, MiB, if its host says so at once.
pub async fn look(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<(Sandbox, Option<u32>), ServiceError> {
    let placed = ctx.store.sandbox_get_placed(actor.team, id).await?.ok_or_else(|| not_found(id))?;
    let used = metrics::disk_used_mib(ctx, &placed.sandbox, placed.host_address.as_deref()).await;
    Ok((placed.sandbox, used))
}

/// The team's sandboxes that are not over, newest first, and whether there are more than the list may hold.
pub async fn list(ctx: &Context, actor: &Actor) -> Result<(Vec<Sandbox>, bool), ServiceError> {
    Ok(ctx.store.sandbox_list(actor.team).await?)
}

/// Writes the wish that a sandbox ends and hands it to the stopper. Repeating it changes nothing.
pub async fn delete(ctx: &Arc<Context>, actor: &Actor, id: SandboxId) -> Result<Sandbox, ServiceError> {
    let sandbox = get(ctx, actor, id).await?;
    ctx.faults.reach(FaultPoint::DeleteAccepted).await;
    let author = actor.author();
    let audit = NewAudit::new(actor.team, author.clone(), "sandbox", "destroy").on(id).warning();
    end(ctx, sandbox, &author, vec![audit]).await
}

/// The same for a sandbox that was looked up already, on behalf of anybody who may.
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
            wished_by: Some(author.clone()),
            audit: audit.clone(),
            ..Change::default()
        };
        match ctx.store.sandbox_change(id, sandbox.generation, &change).await? {
            Changed::Applied(now) => {
                ctx.faults.reach(FaultPoint::DeleteStored).await;
                ctx.stops.wake_for(id);
                tracing::info!(sandbox = %id, was = %sandbox.state, "{id} is to end");
                return Ok(*now);
            }
            // Every change moves the state machine on, so this ends.
            Changed::Stale(now) => sandbox = *now,
            Changed::Gone => return Err(not_found(id).into()),
        }
    }
}

/// Proves that the guest answers, and counts as activity.
pub async fn ping(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<(), ServiceError> {
    let (address, _) = running(ctx, actor, id).await?;
    let host = ctx.fleet.host(&address).map_err(guest_error)?;
    host.ping_sandbox(id).await.map_err(host_error)
}

/// What a host says of a sandbox it does not run.
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
pub async fn console(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<Vec<u8>, ServiceError> {
    let (address, _) = running(ctx, actor, id).await?;
    let host = ctx.fleet.host(&address).map_err(guest_error)?;
    host.get_console(id).await.map_err(host_error)
}

/// The guest of a running sandbox. Counts as activity.
pub async fn guest(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<GuestClient, ServiceError> {
    let (address, _) = running(ctx, actor, id).await?;
    ctx.fleet.guest(&address, &id).map_err(guest_error)
}

async fn running(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<(String, Sandbox), ServiceError> {
    let placed = ctx.store.sandbox_get_placed(actor.team, id).await?.ok_or_else(|| not_found(id))?;
    let state = placed.sandbox.state;
    match (state, placed.host_address) {
        (SandboxState::Running, Some(address)) => {
            ctx.touches.sandbox(id);
            Ok((address, placed.sandbox))
        }
        _ => {
            Err(Failure::new(FailureKind::NotRunning, format!("the capsule is {state}; this needs it running")).into())
        }
    }
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

/// The host a sandbox is bound to does not answer.
pub(super) fn host_away() -> Failure {
    Failure::new(FailureKind::Unavailable, "the capsule's host cannot be reached now; try again")
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

pub(super) fn not_found(id: SandboxId) -> Failure {
    Failure::not_found(format!("there is no capsule {id}"))
}
