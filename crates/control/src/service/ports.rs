//! The way of traffic to ports of sandboxes: which host, whether it may, and the wait for a sandbox that is not up yet.
//!
//! ```text
//! locate: remembered -> its host
//!         running ----> its host, remembered for a short while
//!         starting, resuming, paused with auto_resume -> held until it runs (one resume, whoever asks) -> locate
//! ```
//! What is remembered may be stale: the agent refuses what is not running, and then it is forgotten. Anybody may ask for anything
//! here, so look-ups are few at a time and held requests are counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::upgrade::Upgraded;
use tokio::sync::{Semaphore, watch};
use wrenn_contract::guest::PORT as ENVD_PORT;
use wrenn_contract::host::RelayError;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::limits::{
    DATABASE_WAIT_MAX, HELD_REQUESTS_MAX, PROXY_LOOKUPS_MAX, RESUME_HOLD_MAX, ROUTE_AGE_MAX, ROUTES_MAX,
};
use wrenn_domain::sandbox::SandboxState;
use wrenn_store::pg::{Author, Sandbox, Traffic};

use super::{Actor, ServiceError, guest_error, keys, pauses, sandboxes};
use crate::causes::chain;
use crate::context::Context;
use crate::fleet::FleetError;

/// Between two looks at a sandbox that is on its way.
const LOOK_MIN: Duration = Duration::from_millis(25);
const LOOK_MAX: Duration = Duration::from_millis(200);

/// How a wait ended; none while it lasts.
type Waited = Option<Result<(), Failure>>;

/// What is known of the way to sandboxes, and who waits for one.
pub struct Ports {
    known: Mutex<HashMap<SandboxId, (Instant, Arc<Route>)>>,
    lookups: Semaphore,
    held: Semaphore,
    /// Waits under way: one for each sandbox, however many wait in it.
    waits: Mutex<HashMap<SandboxId, watch::Receiver<Waited>>>,
}

/// The way to one sandbox.
#[derive(Debug)]
pub struct Route {
    pub team: TeamId,
    pub traffic: Traffic,
    /// Its host's agent.
    pub address: String,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            lookups: Semaphore::new(PROXY_LOOKUPS_MAX),
            held: Semaphore::new(HELD_REQUESTS_MAX),
            waits: Mutex::default(),
        }
    }
}

impl Ports {
    /// What is remembered did not hold.
    pub fn forget(&self, id: SandboxId) {
        self.known.lock().expect("no panic while held").remove(&id);
    }

    fn recall(&self, id: SandboxId) -> Option<Arc<Route>> {
        let known = self.known.lock().expect("no panic while held");
        known.get(&id).filter(|(at, _)| at.elapsed() < ROUTE_AGE_MAX).map(|(_, route)| route.clone())
    }

    fn remember(&self, id: SandboxId, route: Arc<Route>) {
        let mut known = self.known.lock().expect("no panic while held");
        if known.len() >= ROUTES_MAX {
            known.retain(|_, (at, _)| at.elapsed() < ROUTE_AGE_MAX);
            if known.len() >= ROUTES_MAX {
                known.clear();
            }
        }
        known.insert(id, (Instant::now(), route));
    }
}

/// Who wants to reach a port.
#[derive(Debug, Clone, Copy)]
pub enum Visitor<'a> {
    /// Somebody known, of this team.
    Team(TeamId),
    /// Anybody, perhaps with a key that was not looked at yet.
    Anybody { key: Option<&'a str> },
}

/// A raw connection of the caller's team to a port. Traffic like any other: it may resume the sandbox.
pub async fn tunnel(ctx: &Arc<Context>, actor: &Actor, id: SandboxId, port: u16) -> Result<Upgraded, ServiceError> {
    if port == ENVD_PORT {
        let text = format!("port {ENVD_PORT} belongs to the capsule's own agent; the API offers what it does");
        return Err(Failure::new(FailureKind::Invalid, text).into());
    }
    connect(ctx, Visitor::Team(actor.team), id, port).await
}

/// A raw connection to a port.
pub async fn connect(
    ctx: &Arc<Context>,
    visitor: Visitor<'_>,
    id: SandboxId,
    port: u16,
) -> Result<Upgraded, ServiceError> {
    let until = Instant::now() + RESUME_HOLD_MAX;
    let mut tries = 0;
    loop {
        let route = locate(ctx, visitor, id).await?;
        let error = match ctx.fleet.tunnel(&route.address, &id, port).await {
            Ok(tunnel) => return Ok(tunnel),
            Err(error) => error,
        };
        let not_running = matches!(error, FleetError::Relay(RelayError::NotRunning | RelayError::NotFound));
        if not_running || error.is_away() {
            ctx.ports.forget(id);
        }
        // What was remembered may be old. Else the host is ahead of what it has reported: it paused the sandbox by itself.
        let again = not_running && (tries == 0 || route.traffic.auto_resume && Instant::now() < until);
        if !again {
            return Err(guest_error(error));
        }
        if tries > 0 {
            tokio::time::sleep(LOOK_MAX).await;
        }
        tries += 1;
    }
}

/// The way to a sandbox that runs, or that comes to run while this waits.
pub async fn locate(ctx: &Arc<Context>, visitor: Visitor<'_>, id: SandboxId) -> Result<Arc<Route>, ServiceError> {
    let until = Instant::now() + RESUME_HOLD_MAX;
    loop {
        if let Some(route) = ctx.ports.recall(id) {
            admit(ctx, visitor, id, &route).await?;
            return Ok(route);
        }
        let found = {
            let turn = tokio::time::timeout(DATABASE_WAIT_MAX, ctx.ports.lookups.acquire()).await;
            let _turn = turn.map_err(|_| ServiceError::Busy("too many look-ups; try again".to_owned()))?;
            // Somebody who was before us may have asked for the same.
            if ctx.ports.recall(id).is_some() {
                continue;
            }
            ctx.store.sandbox_get_for_traffic(id).await?.ok_or_else(|| sandboxes::not_found(id))?
        };
        let route = Arc::new(Route {
            team: found.sandbox.team,
            traffic: found.sandbox.traffic,
            address: found.host_address.unwrap_or_default(),
        });
        // First who may know anything, then what there is to know.
        admit(ctx, visitor, id, &route).await?;
        match judge(&found.sandbox)? {
            Next::Go if route.address.is_empty() => return Err(sandboxes::host_away().into()),
            Next::Go => {
                ctx.ports.remember(id, route.clone());
                return Ok(route);
            }
            Next::Wait if Instant::now() < until => hold(ctx, id).await?,
            Next::Wait => return Err(too_long(id)),
        }
    }
}

async fn admit(ctx: &Context, visitor: Visitor<'_>, id: SandboxId, route: &Route) -> Result<(), ServiceError> {
    let team = match visitor {
        Visitor::Team(team) => team,
        Visitor::Anybody { .. } if route.traffic.public_ports => return Ok(()),
        Visitor::Anybody { key: Some(key) } => keys::authenticate(ctx, key).await?.team,
        Visitor::Anybody { key: None } => {
            let text = "the ports of this capsule are not public; send an API key of its team in X-API-Key";
            return Err(Failure::new(FailureKind::Unauthorized, text).into());
        }
    };
    if team == route.team { Ok(()) } else { Err(sandboxes::not_found(id).into()) }
}

enum Next {
    Go,
    Wait,
}

/// What its state means for traffic.
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
        SandboxState::Missing => Err(sandboxes::host_away().into()),
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
    let place = ctx.ports.held.try_acquire();
    let _place = place.map_err(|_| ServiceError::Busy("too many requests wait for capsules; try again".to_owned()))?;
    let mut wait = {
        let mut waits = ctx.ports.waits.lock().expect("no panic while held");
        waits.entry(id).or_insert_with(|| begin(ctx, id)).clone()
    };
    let outcome = match wait.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone(),
        // Its task ended without a word: the server ends.
        Err(_) => None,
    };
    outcome.unwrap_or_else(|| Err(sandboxes::host_away())).map_err(ServiceError::from)
}

/// In a task of its own: a caller who hangs up must not stop a resume others wait for.
fn begin(ctx: &Arc<Context>, id: SandboxId) -> watch::Receiver<Waited> {
    let (tell, wait) = watch::channel(None);
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
        ctx.ports.waits.lock().expect("no panic while held").remove(&id);
        if let Some(outcome) = outcome {
            tell.send_replace(Some(outcome.map_err(shown)));
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
    let mut pause = LOOK_MIN;
    let mut asked = false;
    loop {
        let found = ctx.store.sandbox_get_for_traffic(id).await?.ok_or_else(|| sandboxes::not_found(id))?;
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
        pause = (pause * 2).min(LOOK_MAX);
    }
}
