//! Known ways to sandboxes' hosts, and the waits for sandboxes that are not up yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::limits::{ROUTE_AGE_MAX, ROUTES_MAX};
use wrenn_store::pg::Traffic;

use super::cache::TimedCache;
use crate::sync::lock;

/// The way to one sandbox.
#[derive(Debug)]
pub struct Route {
    pub team: TeamId,
    pub traffic: Traffic,
    /// Base URL of its host's agent.
    pub address: String,
}

/// How a wait for a sandbox ended; none while it lasts.
pub(crate) type WaitOutcome = Option<Result<(), Failure>>;

/// Routes of traffic to ports. What is remembered may be stale: the agent refuses what is not running.
pub struct PortRoutes {
    known: TimedCache<SandboxId, Arc<Route>>,
    /// Waits under way: one for each sandbox, however many requests wait in it.
    waits: Mutex<HashMap<SandboxId, watch::Receiver<WaitOutcome>>>,
}

impl Default for PortRoutes {
    fn default() -> Self {
        Self { known: TimedCache::new(ROUTE_AGE_MAX, ROUTES_MAX), waits: Mutex::default() }
    }
}

impl PortRoutes {
    /// Forgets a route that did not hold.
    pub(crate) fn forget(&self, id: SandboxId) {
        self.known.remove(&id);
    }

    /// Finds a route that was remembered a short while ago.
    pub(crate) fn get(&self, id: SandboxId) -> Option<Arc<Route>> {
        self.known.get(&id)
    }

    /// Remembers a route.
    pub(crate) fn put(&self, id: SandboxId, route: Arc<Route>) {
        self.known.put(id, route);
    }

    /// Joins the wait for a sandbox, or the one that `begin` starts.
    pub(crate) fn join_wait(
        &self,
        id: SandboxId,
        begin: impl FnOnce() -> watch::Receiver<WaitOutcome>,
    ) -> watch::Receiver<WaitOutcome> {
        lock(&self.waits).entry(id).or_insert_with(begin).clone()
    }

    /// Ends a wait: who comes from now on begins another.
    pub(crate) fn end_wait(&self, id: SandboxId) {
        lock(&self.waits).remove(&id);
    }
}
