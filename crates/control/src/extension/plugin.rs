//! The traits a distribution implements: routes, middleware, workers, hooks, limits, login providers.
//!
//! Every part has a default that does nothing. A part that panics or takes too long is cut off and logged; it never takes
//! the server or another extension with it.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use wrenn_domain::ids::{EventId, SandboxId, TeamId, UserId};
use wrenn_domain::quota::{Limits, Usage};

use super::context::ServerContext;
use crate::oauth::OAuthProvider;

/// An account that is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    pub user: UserId,
    /// First team of the account.
    pub team: TeamId,
    pub email: String,
    pub name: String,
}

/// Whatever went wrong in an extension. Its text goes to the log, never to a client.
pub type ExtensionError = Box<dyn std::error::Error + Send + Sync>;

/// A part of a distribution.
pub trait Extension: Send + Sync + 'static {
    /// Short name for logs.
    fn name(&self) -> &str;

    /// Called once when the database is ready and before any worker starts; the place for its own migrations. An error is
    /// logged and tried again with the rest of the start.
    fn prepare<'a>(&'a self, _ctx: &'a ServerContext) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Routes beside the core ones. A path the core has already is an error at the start.
    fn routes(&self, _ctx: &ServerContext) -> Router {
        Router::new()
    }

    /// Wraps every core route, for instance with `core.layer(...)`. The first extension's layer is the outermost.
    fn middleware(&self, _ctx: &ServerContext, core: Router) -> Router {
        core
    }

    /// Tasks that run as long as the server.
    fn background_workers(&self, _ctx: &ServerContext) -> Vec<Worker> {
        Vec::new()
    }

    /// Hears of accounts.
    fn auth_hook(&self) -> Option<&dyn AuthHook> {
        None
    }

    /// Hears of sandboxes, from the durable stream.
    fn sandbox_event_hook(&self) -> Option<&dyn SandboxEventHook> {
        None
    }

    /// Part that says how much a team may use. The first extension that has one decides.
    fn limits_provider(&self) -> Option<&dyn LimitsProvider> {
        None
    }

    /// Part that says how much a team uses. The first extension that has one decides; without any the database is counted.
    fn usage_provider(&self) -> Option<&dyn UsageProvider> {
        None
    }

    /// Other sites people can log in by.
    fn oauth_providers(&self, _ctx: &ServerContext) -> Vec<Arc<dyn OAuthProvider>> {
        Vec::new()
    }
}

/// Hears of accounts.
pub trait AuthHook: Send + Sync {
    /// Before a sign-up is committed. An error stops it with `signup_hook_failed`: nothing of the account stands, and the same
    /// sign-up may be tried again. So this may be called several times for one account, and for one that never comes to be; key
    /// what you store by the ids given and do not reference our tables yet.
    fn on_signup<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        _account: &'a NewAccount,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// After a login. Errors are logged.
    fn on_login<'a>(&'a self, _ctx: &'a ServerContext, _user: UserId) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// After an account was deleted by its owner; called until it returned once, also across crashes. Errors are logged.
    fn on_account_soft_delete<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        _user: UserId,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// After the last of an account is gone; called until it returned once, also across crashes. Errors are logged.
    fn on_account_hard_delete<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        _user: UserId,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Hears of sandboxes.
pub trait SandboxEventHook: Send + Sync {
    /// Called at least once for each event, also across crashes. An error has it delivered again later, up to a number of tries;
    /// then it lies with the dead letters. Tell a second delivery by the event's id.
    fn on_sandbox_event<'a>(
        &'a self,
        ctx: &'a ServerContext,
        event: &'a SandboxEvent,
    ) -> BoxFuture<'a, Result<(), ExtensionError>>;
}

/// Tells how much a team may use.
pub trait LimitsProvider: Send + Sync {
    /// Asked before each create, resume and fork. An error refuses it with `limits_unavailable`.
    fn effective_limits<'a>(
        &'a self,
        ctx: &'a ServerContext,
        team: TeamId,
    ) -> BoxFuture<'a, Result<Limits, ExtensionError>>;
}

/// Tells how much a team uses.
pub trait UsageProvider: Send + Sync {
    /// Asked while the team's row is locked, so that no other create of the team stands between question and reservation.
    /// `counted` is what the database counts. An error refuses the create with `usage_unavailable`.
    fn current_usage<'a>(
        &'a self,
        ctx: &'a ServerContext,
        team: TeamId,
        counted: Usage,
    ) -> BoxFuture<'a, Result<Usage, ExtensionError>>;
}

/// Something that happened to a sandbox, and worked.
#[derive(Debug, Clone)]
pub struct SandboxEvent {
    /// Id of the event; every delivery of it has this one.
    pub id: EventId,
    pub sandbox: SandboxId,
    pub team: TeamId,
    pub kind: SandboxEventKind,
    pub occurred_at: DateTime<Utc>,
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// Kind of a sandbox's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxEventKind {
    Created,
    Resumed,
    Paused,
    Destroyed,
}

/// A task of an extension. One that ends or panics is started again after a pause.
pub struct Worker {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn Fn(ServerContext) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Worker {
    /// A worker that runs `run`; it is dropped when the server ends.
    pub fn new<F, Fut>(name: &'static str, run: F) -> Self
    where
        F: Fn(ServerContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { name, run: Box::new(move |ctx| run(ctx).boxed()) }
    }
}
