//! Finding a sandbox and its host for all other services, and the words when there is none.

use std::time::{Duration, Instant};

use connectrpc::ErrorCode as Code;
use wrenn_contract::host::RelayError;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::Sandbox;

use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
use crate::fleet::{FleetError, GuestClient};

/// Finds a sandbox of the caller's team.
///
/// # Errors
/// When there is none of this id in the team, or the database is away.
pub async fn get(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<Sandbox, ServiceError> {
    Ok(ctx.store.sandbox_get(actor.team, id).await?.ok_or_else(|| not_found(id))?)
}

/// Opens the way to the guest of a running sandbox. Counts as activity.
///
/// # Errors
/// When the sandbox is not the team's or does not run.
pub async fn guest(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<GuestClient, ServiceError> {
    let address = running(ctx, actor, id).await?;
    ctx.fleet.guest(&address, &id).map_err(guest_error)
}

/// Finds the address of the host a sandbox runs on. Counts as activity.
///
/// # Errors
/// When the sandbox is not the team's or does not run.
pub(super) async fn running(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<String, ServiceError> {
    let placed = ctx.store.sandbox_get_placed(actor.team, id).await?.ok_or_else(|| not_found(id))?;
    let state = placed.sandbox.state;
    match (state, placed.host_address) {
        (SandboxState::Running, Some(address)) => {
            ctx.touches.sandbox(id);
            Ok(address)
        }
        _ => {
            Err(Failure::new(FailureKind::NotRunning, format!("the capsule is {state}; this needs it running")).into())
        }
    }
}

/// Failure of a call whose sandbox is bound to a host that does not answer.
pub(super) fn host_away() -> Failure {
    Failure::new(FailureKind::Unavailable, "the capsule's host cannot be reached now; try again")
}

/// Failure of a call on a sandbox that is not there for the caller.
pub(super) fn not_found(id: SandboxId) -> Failure {
    Failure::not_found(format!("there is no capsule {id}"))
}

/// How long a break is looked into: the report of what happened comes a moment after the connection broke.
const EXPLAIN_MAX: Duration = Duration::from_secs(2);
const EXPLAIN_EVERY: Duration = Duration::from_millis(100);

/// Replaces an error by what became of a sandbox, when a call into it broke off because of that. Other errors stay as they are.
pub(super) async fn explain(ctx: &Context, actor: &Actor, id: SandboxId, error: ServiceError) -> ServiceError {
    let broke = matches!(
        &error,
        ServiceError::Host {
            source: FleetError::Unreachable(_)
                | FleetError::TimedOut
                | FleetError::Nonsense(_)
                | FleetError::Answered {
                    code: Code::Internal
                        | Code::Unknown
                        | Code::Unavailable
                        | Code::Aborted
                        | Code::Canceled
                        | Code::DataLoss,
                    ..
                }
                | FleetError::Relay(RelayError::NotFound | RelayError::NotRunning | RelayError::Unresponsive),
            ..
        }
    );
    if !broke {
        return error;
    }
    match ended_meanwhile(ctx, actor, id).await {
        Some(failure) => failure.into(),
        None => error,
    }
}

/// Finds why a sandbox that ran a moment ago does not any more; none when it still runs, as far as anybody knows.
pub async fn ended_meanwhile(ctx: &Context, actor: &Actor, id: SandboxId) -> Option<Failure> {
    let until = Instant::now() + EXPLAIN_MAX;
    loop {
        // A database that is away says nothing; then the first error is all there is to say.
        let Ok(found) = ctx.store.sandbox_get(actor.team, id).await else { return None };
        match found {
            None => return Some(not_found(id)),
            Some(sandbox) => {
                if let Some(failure) = meanwhile(&sandbox) {
                    return Some(failure);
                }
            }
        }
        if Instant::now() >= until || ctx.stop.is_cancelled() {
            return None;
        }
        tokio::time::sleep(EXPLAIN_EVERY).await;
    }
}

fn meanwhile(sandbox: &Sandbox) -> Option<Failure> {
    let id = sandbox.id;
    let text = match sandbox.state {
        SandboxState::Running | SandboxState::Snapshotting | SandboxState::Starting => return None,
        SandboxState::Pausing | SandboxState::Paused => format!(
            "the capsule was paused while this was under way; resume it with `wrenn capsule resume {id}` or POST /v1/capsules/{id}/resume"
        ),
        SandboxState::Resuming => {
            "the capsule was paused while this was under way, and is resuming; try again".to_owned()
        }
        SandboxState::Stopping | SandboxState::Stopped => "the capsule was deleted while this was under way".to_owned(),
        SandboxState::Error => match &sandbox.error {
            Some(why) => format!("the capsule ended while this was under way: {why}"),
            None => "the capsule ended while this was under way".to_owned(),
        },
        SandboxState::Missing => return Some(host_away()),
    };
    Some(Failure::new(FailureKind::NotRunning, text))
}
