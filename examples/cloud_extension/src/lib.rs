//! A private distribution in small: billing accounts, plans that limit, a meter that counts. It uses what `wrenn_control`
//! makes public and nothing else.
//!
//! - [`billing`]: its tables.
//! - [`routes`]: one route per guard.
//! - here: the extension itself, its hooks and limits.

pub mod billing;
pub mod routes;

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use wrenn_control::Extension;
use wrenn_control::extension::{
    AuthHook, BoxFuture, ExtensionError, Limits, LimitsProvider, NewAccount, SandboxEvent, SandboxEventHook,
    ServerContext, TeamId, Usage, UsageProvider, UserId, Worker,
};

/// How often the worker counts.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// The extension.
pub struct Cloud;

impl Extension for Cloud {
    fn name(&self) -> &str {
        "cloud"
    }

    fn prepare<'a>(&'a self, ctx: &'a ServerContext) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(async { Ok(billing::migrate(ctx.pool()).await?) })
    }

    fn routes(&self, ctx: &ServerContext) -> Router {
        routes::router(ctx)
    }

    fn middleware(&self, ctx: &ServerContext, core: Router) -> Router {
        let version = HeaderValue::from_str(ctx.version()).unwrap_or_else(|_| HeaderValue::from_static("cloud"));
        core.layer(from_fn(move |request: Request, next: Next| {
            let version = version.clone();
            async move {
                let mut response: Response = next.run(request).await;
                response.headers_mut().insert("x-cloud-version", version);
                response
            }
        }))
    }

    fn background_workers(&self, _ctx: &ServerContext) -> Vec<Worker> {
        vec![Worker::new("cloud_counter", |ctx: ServerContext| async move {
            loop {
                if let Err(error) = billing::count(ctx.pool()).await {
                    tracing::warn!(%error, "cannot count what teams created");
                }
                tokio::time::sleep(COUNT_EVERY).await;
            }
        })]
    }

    fn auth_hook(&self) -> Option<&dyn AuthHook> {
        Some(self)
    }

    fn sandbox_event_hook(&self) -> Option<&dyn SandboxEventHook> {
        Some(self)
    }

    fn limits_provider(&self) -> Option<&dyn LimitsProvider> {
        Some(self)
    }

    fn usage_provider(&self) -> Option<&dyn UsageProvider> {
        Some(self)
    }
}

impl AuthHook for Cloud {
    fn on_signup<'a>(
        &'a self,
        ctx: &'a ServerContext,
        account: &'a NewAccount,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(async {
            if account.email.ends_with("@blocked.example.com") {
                return Err("this company may not have an account".into());
            }
            Ok(billing::open(ctx.pool(), account).await?)
        })
    }

    fn on_login<'a>(&'a self, ctx: &'a ServerContext, user: UserId) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(async move { Ok(billing::seen(ctx.pool(), user).await?) })
    }

    fn on_account_soft_delete<'a>(
        &'a self,
        ctx: &'a ServerContext,
        user: UserId,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(async move { Ok(billing::close(ctx.pool(), user).await?) })
    }

    fn on_account_hard_delete<'a>(
        &'a self,
        ctx: &'a ServerContext,
        user: UserId,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        Box::pin(async move { Ok(billing::remove(ctx.pool(), user).await?) })
    }
}

impl SandboxEventHook for Cloud {
    fn on_sandbox_event<'a>(
        &'a self,
        ctx: &'a ServerContext,
        event: &'a SandboxEvent,
    ) -> BoxFuture<'a, Result<(), ExtensionError>> {
        // The same event twice is one row.
        Box::pin(async { Ok(billing::meter(ctx.pool(), event).await?) })
    }
}

impl LimitsProvider for Cloud {
    fn effective_limits<'a>(
        &'a self,
        ctx: &'a ServerContext,
        team: TeamId,
    ) -> BoxFuture<'a, Result<Limits, ExtensionError>> {
        Box::pin(async move { Ok(billing::limits(ctx.pool(), team).await?) })
    }
}

impl UsageProvider for Cloud {
    fn current_usage<'a>(
        &'a self,
        _ctx: &'a ServerContext,
        _team: TeamId,
        counted: Usage,
    ) -> BoxFuture<'a, Result<Usage, ExtensionError>> {
        // The core counts well enough; a distribution with capacity elsewhere would add it here.
        Box::pin(std::future::ready(Ok(counted)))
    }
}
