//! The way of traffic to ports of sandboxes: which host, whether it may, and the wait for a sandbox that is not up yet.
//!
//! ```text
//! locate: remembered -> its host
//!         running ----> its host, remembered for a short while
//!         starting, resuming, paused with auto_resume -> held until it runs (one resume, whoever asks) -> locate
//! ```
//! What is remembered may be stale: the agent refuses what is not running, and then it is forgotten. Anybody may ask for anything
//! here, so look-ups are few at a time and held requests are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::upgrade::Upgraded;
use tokio::sync::watch;
use wrenn_contract::guest::PORT as ENVD_PORT;
use wrenn_contract::host::RelayError;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::limits::{DATABASE_WAIT_MAX, RESUME_HOLD_MAX};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{Author, Sandbox};

use super::{keys, lookup, pauses};
use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
use crate::error_chain::chain;
use crate::fleet::FleetError;
use crate::state::permits::TunnelPermit;
use crate::state::pool::Full;
use crate::state::port_routes::{Route, WaitOutcome};

/// Between two looks at a sandbox that is on its way.
const POLL_MIN: Duration = Duration::from_millis(25);
const POLL_MAX: Duration = Duration::from_millis(200);

/// Visitor who wants to reach a port.
#[derive(Debug, Clone, Copy)]
pub enum Visitor<'a> {
    /// Somebody known, of this team.
    Team(TeamId),
    /// Anybody, perhaps with a key that was not looked at yet.
    Anybody {
        key: Option<&'a str>,
        /// Network the visitor comes from.
        network: &'a str,
    },
}

impl Visitor<'_> {
    /// Party that look-ups for this visitor are counted for.
    fn party(self) -> String {
        match self {
            Self::Team(team) => team.to_string(),
            Self::Anybody { network, .. } => network.to_owned(),
        }
    }
}

/// A raw connection of the caller's team to a port. Traffic like any other: it may resume the sandbox.
///
/// # Errors
/// When the visitor may not come in, the sandbox does not run and does not come to run, or its host is away.
pub(crate) async fn tunnel(
    ctx: &Arc<Context>,
    actor: &Actor,
    id: SandboxId,
    port: u16,
) -> Result<(Upgraded, TunnelPermit), ServiceError> {
    if port == ENVD_PORT {
        let text = format!("port {ENVD_PORT} belongs to the capsule's own agent; the API offers what it does");
        return Err(Failure::new(FailureKind::Invalid, text).into());
    }
    let visitor = Visitor::Team(actor.team);
    // Only of a sandbox of the team's own: nobody may use up another team's permits.
    let (route, _) = locate(ctx, visitor, id).await?;
    let permit = ctx.permits.tunnel(id, route.team).map_err(|full| tunnels_full(full, id))?;
    Ok((connect(ctx, visitor, id, port).await?, permit))
}

/// Refusal of a connection to a port for which there is no permit.
pub(crate) fn tunnels_full(full: Full, id: SandboxId) -> ServiceError {
    ServiceError::Busy(match full {
        Full::Total => "too many connections to capsules are open; try again".to_owned(),
        Full::Share => format!("too many connections to capsule {id}, or to its team's capsules, are open; close some"),
    })
}

/// A raw connection to a port.
///
/// # Errors
/// When the visitor may not come in, the sandbox does not run and does not come to run, or its host is away.
pub async fn connect(
    ctx: &Arc<Context>,
    visitor: Visitor<'_>,
    id: SandboxId,
    port: u16,
) -> Result<Upgraded, ServiceError> {
    let until = Instant::now() + RESUME_HOLD_MAX;
    let mut tries = 0;
    loop {
        let (route, _) = locate(ctx, visitor, id).await?;
        let error = match ctx.fleet.tunnel(&route.address, &id, port).await {
            Ok(tunnel) => return Ok(tunnel),
            Err(error) => error,
        };
        let not_running = matches!(error, FleetError::Relay(RelayError::NotRunning | RelayError::NotFound));
        if not_running || error.is_away() {
            ctx.port_routes.forget(id);
        }
        // What was remembered may be old. Else the host is ahead of what it has reported: it paused the sandbox by itself.
        let again = not_running && (tries == 0 || route.traffic.auto_resume && Instant::now() < until);
        if !again {
            return Err(guest_error(error));
        }
        if tries > 0 {
            tokio::time::sleep(POLL_MAX).await;
        }
        tries += 1;
    }
}

/// The way to a sandbox that runs, or that comes to run while this waits.
///
/// # Errors
/// When the visitor may not come in, the sandbox does not run and does not come to run, or its host is away.
pub async fn locate(
    ctx: &Arc<Context>,
    visitor: Visitor<'_>,
    id: SandboxId,
) -> Result<(Arc<Route>, Option<Arc<Actor>>), ServiceError> {
    let until = Instant::now() + RESUME_HOLD_MAX;
    loop {
        if let Some(route) = ctx.port_routes.get(id) {
            let actor = admit(ctx, visitor, id, &route).await?;
            return Ok((route, actor));
        }
        let found = {
            let turn = ctx.permits.lookups.wait(visitor.party(), DATABASE_WAIT_MAX).await;
            let _turn = turn.map_err(|_| ServiceError::Busy("too many look-ups; try again".to_owned()))?;
            // Somebody who was before us may have asked for the same.
            if ctx.port_routes.get(id).is_some() {
                continue;
            }
            ctx.store.sandbox_get_for_traffic(id).await?.ok_or_else(|| lookup::not_found(id))?
        };
        let route = Arc::new(Route {
            team: found.sandbox.team,
            traffic: found.sandbox.traffic,
            address: found.host_address.unwrap_or_default(),
        });
        // First who may know anything, then what there is to know.
        let actor = admit(ctx, visitor, id, &route).await?;
        match judge(&found.sandbox)? {
            Next::Go if route.address.is_empty() => return Err(lookup::host_away().into()),
            Next::Go => {
                ctx.port_routes.put(id, route.clone());
                return Ok((route, actor));
            }
            Next::Wait if Instant::now() < until => hold(ctx, id).await?,
            Next::Wait => return Err(too_long(id)),
        }
    }
}

/// Judges whether a visitor may come in. Answers the actor of the key that was needed for it.
async fn admit(
    ctx: &Context,
    visitor: Visitor<'_>,
    id: SandboxId,
    route: &Route,
) -> Result<Option<Arc<Actor>>, ServiceError> {
    let (team, actor) = match visitor {
        Visitor::Team(team) => (team, None),
        Visitor::Anybody { .. } if route.traffic.public_ports => return Ok(None),
        Visitor::Anybody { key: Some(key), network } => {
            let actor = keys::authenticate(ctx, network, key).await?;
            (actor.team, Some(actor))
        }
        Visitor::Anybody { key: None, .. } => {
            let text = "the ports of this capsule are not public; send an API key of its team in X-API-Key";
            return Err(Failure::new(FailureKind::Unauthorized, text).into());
        }
    };
    if team == route.team { Ok(actor) } else { Err(lookup::not_found(id).into()) }
}

enum Next {
    Go,
    Wait,
}

/// Judges what a sandbox's state means for traffic.
fn judge(sandbox: &Sandbox) -> Result<Next, ServiceError> {
    match sandbox.state {
        // One that stands still for a snapshot does so for an instant; whether it runs, its host knows.
        SandboxState::Running | SandboxState::Snapshotting => Ok(Next::Go),
        SandboxState::Starting | SandboxState::Resuming => Ok(Next::Wait),
        SandboxState::Pausing | SandboxState::Paused if sandbox.traffic.auto_resume => Ok(Next::Wait),
        SandboxState::Pausing | SandboxState::Paused => {
            let text = format!(
                "the capsule is {0}; resume it with `wrenn capsule resume {1}` or POST /v1/capsules/{1}/resume, or create capsules with auto_resume",
                sandbox.state, sandbox.id
            );
            Err(Failure::new(FailureKind::NotRunning, text).into())
        }
        SandboxState::Missing => Err(lookup::host_away().into()),
        state @ (SandboxState::Stopping | SandboxState::Stopped | SandboxState::Error) => Err(over(state).into()),
    }
}

fn over(state: SandboxState) -> Failure {
    Failure::new(FailureKind::NotRunning, format!("the capsule is {state}; create a new one"))
}

fn too_long(id: SandboxId) -> ServiceError {
    let text = format!("capsule {id} does not run yet; try again");
    Failure::new(FailureKind::Unavailable, text).into()
}

/// Returns when the sandbox runs, or says why it will not. Whoever comes while somebody waits already waits with him.
async fn hold(ctx: &Arc<Context>, id: SandboxId) -> Result<(), ServiceError> {
    let _permit = ctx.permits.held.take(id).map_err(|full| {
        ServiceError::Busy(match full {
            Full::Total => "too many requests wait for capsules; try again".to_owned(),
            Full::Share => format!("too many requests wait for capsule {id}; try again"),
        })
    })?;
    let mut wait = ctx.port_routes.join_wait(id, || begin(ctx, id));
    let outcome = match wait.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone(),
        // Its task ended without a word: the server ends.
        Err(_) => None,
    };
    outcome.unwrap_or_else(|| Err(lookup::host_away())).map_err(ServiceError::from)
}

/// In a task of its own: a caller who hangs up must not stop a resume others wait for.
fn begin(ctx: &Arc<Context>, id: SandboxId) -> watch::Receiver<WaitOutcome> {
    let (sender, wait) = watch::channel(None);
    let ctx = ctx.clone();
    ctx.clone().tasks.spawn(async move {
        let outcome = tokio::select! {
            biased;
            () = ctx.stop.cancelled() => None,
            outcome = tokio::time::timeout(RESUME_HOLD_MAX, come_up(&ctx, id)) => {
                Some(outcome.unwrap_or_else(|_| Err(too_long(id))))
            }
        };
        // Gone before it is told, so that whoever comes after looks anew.
        ctx.port_routes.end_wait(id);
        if let Some(outcome) = outcome {
            sender.send_replace(Some(outcome.map_err(shown)));
        }
    });
    wait
}

/// Several wait for one outcome; what may be told is all they need.
fn shown(error: ServiceError) -> Failure {
    match error {
        ServiceError::Failure(failure) | ServiceError::Host { failure, .. } | ServiceError::TooMany { failure, .. } => {
            failure
        }
        ServiceError::Busy(text) => Failure::new(FailureKind::Unavailable, text),
        ServiceError::Store(error) => {
            tracing::warn!(error = chain(&error), "a capsule that traffic waits for cannot be looked up");
            Failure::new(FailureKind::Unavailable, "the control plane's database cannot be reached now; try again")
        }
    }
}

async fn come_up(ctx: &Arc<Context>, id: SandboxId) -> Result<(), ServiceError> {
    let mut pause = POLL_MIN;
    let mut asked = false;
    loop {
        let found = ctx.store.sandbox_get_for_traffic(id).await?.ok_or_else(|| lookup::not_found(id))?;
        let sandbox = found.sandbox;
        match judge(&sandbox)? {
            Next::Go => return Ok(()),
            Next::Wait if sandbox.state == SandboxState::Paused => {
                if asked {
                    let why = sandbox.error.unwrap_or_else(|| "it was paused again".to_owned());
                    let text = format!("the capsule could not be resumed: {why}");
                    return Err(Failure::new(FailureKind::Unavailable, text).into());
                }
                pauses::resume_for(ctx, sandbox, &Author::system(), None).await?;
                asked = true;
            }
            Next::Wait => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}
