//! Calls of hooks, each bounded in time and with its panics caught.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::UserId;
use wrenn_domain::limits::HOOK_WAIT_MAX;
use wrenn_store::pg::{NewOutboundJob, OutboundJobKind};

pub use super::plugin::NewAccount;
use super::plugin::{ExtensionError, SandboxEvent};
use crate::context::Context;
use crate::error_chain::chain;
use crate::panics;

/// Why a call into an extension did not work.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("it failed")]
    Failed(#[source] ExtensionError),
    #[error("it took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("it panicked: {0}")]
    Panicked(String),
}

/// Runs a call into an extension: no longer than `bound`, and a panic ends with it.
pub(crate) async fn call<T>(
    bound: Duration,
    act: impl Future<Output = Result<T, ExtensionError>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(bound, AssertUnwindSafe(act).catch_unwind()).await {
        Err(_) => Err(CallError::TimedOut(bound)),
        Ok(Err(panic)) => Err(CallError::Panicked(panics::message(&*panic).to_owned())),
        Ok(Ok(outcome)) => outcome.map_err(CallError::Failed),
    }
}

/// Asks every hook, in order, whether an account may come to be. The first that fails decides.
pub(crate) async fn on_signup(ctx: &Context, account: &NewAccount) -> Result<(), Failure> {
    let Some(server) = ctx.server() else { return Ok(()) };
    for extension in &ctx.extensions {
        let Some(hook) = extension.auth_hook() else { continue };
        // The future is made inside the call: making it may panic as well.
        let asked = call(HOOK_WAIT_MAX, async { hook.on_signup(&server, account).await }).await;
        if let Err(error) = asked {
            tracing::error!(extension = extension.name(), user = %account.user, error = chain(&error), "a sign-up hook failed");
            return Err(Failure::new(
                FailureKind::SignupRefused,
                "the account could not be set up; try again in a while with the same link or button",
            ));
        }
    }
    Ok(())
}

/// Whether any extension hears of accounts.
pub(crate) fn hear_of_accounts(ctx: &Context) -> bool {
    ctx.extensions.iter().any(|extension| extension.auth_hook().is_some())
}

/// Tells every hook of a login, in the background.
pub(crate) fn on_login(ctx: &Context, user: UserId) {
    if !hear_of_accounts(ctx) {
        return;
    }
    let (Some(server), extensions) = (ctx.server(), ctx.extensions.clone()) else { return };
    ctx.tasks.spawn(async move {
        for extension in &extensions {
            let Some(hook) = extension.auth_hook() else { continue };
            if let Err(error) = call(HOOK_WAIT_MAX, async { hook.on_login(&server, user).await }).await {
                tracing::error!(
                    extension = extension.name(),
                    hook = "on_login",
                    error = chain(&error),
                    "a hook failed"
                );
            }
        }
    });
}

/// An account's end, as the outbound job that reports it holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AccountEnd {
    /// The account was deleted by its owner.
    Soft { user: UserId },
    /// The last of it is gone.
    Hard { user: UserId },
}

impl AccountEnd {
    /// Makes the job that calls the hooks; none when there are no hooks.
    pub(crate) fn outbound_job(&self, ctx: &Context) -> Option<NewOutboundJob> {
        if !hear_of_accounts(ctx) {
            return None;
        }
        let payload = serde_json::to_value(self).expect("an id is JSON");
        Some(NewOutboundJob {
            id: wrenn_domain::ids::OutboundJobId::from_uuid(Uuid::new_v4()),
            kind: OutboundJobKind::AccountHook,
            key: None,
            payload,
        })
    }

    pub(crate) fn read(payload: &Value) -> Option<Self> {
        serde_json::from_value(payload.clone()).ok()
    }
}

/// Tells every hook of an account's end and waits for them. Their errors are logged.
pub(crate) async fn on_account_end(ctx: &Context, end: &AccountEnd) {
    let Some(server) = ctx.server() else { return };
    for extension in &ctx.extensions {
        let Some(hook) = extension.auth_hook() else { continue };
        let called = call(HOOK_WAIT_MAX, async {
            match *end {
                AccountEnd::Soft { user } => hook.on_account_soft_delete(&server, user).await,
                AccountEnd::Hard { user } => hook.on_account_hard_delete(&server, user).await,
            }
        });
        if let Err(error) = called.await {
            tracing::error!(extension = extension.name(), ?end, error = chain(&error), "a hook failed");
        }
    }
}

/// Delivers an event to every hook, in order; the first that fails stops it.
pub(crate) async fn on_sandbox_event(ctx: &Context, event: &SandboxEvent) -> Result<(), String> {
    let Some(server) = ctx.server() else { return Err("the server is ending".to_owned()) };
    for extension in &ctx.extensions {
        let Some(hook) = extension.sandbox_event_hook() else { continue };
        let called = call(HOOK_WAIT_MAX, async { hook.on_sandbox_event(&server, event).await }).await;
        called.map_err(|error| format!("{}: {}", extension.name(), chain(&error)))?;
    }
    Ok(())
}
