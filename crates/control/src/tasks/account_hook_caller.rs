//! Tells the hooks of extensions that an account ended. Their errors are logged and no more; but a process that dies before they
//! were called leaves the outbound job to another.

use std::sync::Arc;

use wrenn_domain::limits::ACCOUNT_HOOK_TRIES_MAX;
use wrenn_store::StoreError;
use wrenn_store::pg::{OutboundJob, OutboundJobKind};

use super::work::{self, Next, renew_while, settle};
use crate::context::Context;
use crate::extension::hooks::{self, AccountEnd};
use crate::fault::FaultPoint;

pub(super) async fn run(ctx: Arc<Context>) {
    // What is owed to hooks is not for a control plane that has none.
    if !hooks::hear_of_accounts(&ctx) {
        return std::future::pending().await;
    }
    work::run(ctx, OutboundJobKind::AccountHook, drive).await;
}

async fn drive(ctx: Arc<Context>, job: OutboundJob) {
    ctx.faults.reach(FaultPoint::AccountHookClaimed).await;
    if let Some(next) = renew_while(&ctx, OutboundJobKind::AccountHook, job.id, step(&ctx, &job)).await {
        settle(&ctx, OutboundJobKind::AccountHook, job.id, next).await;
    }
}

async fn step(ctx: &Context, job: &OutboundJob) -> Result<Next, StoreError> {
    let id = job.id;
    if job.attempts > ACCOUNT_HOOK_TRIES_MAX {
        tracing::error!(job = %id, "hooks were not told of an account's end: each try ended with its process");
        ctx.store.outbound_job_give_up(id, "its process died in every try").await?;
        return Ok(Next::Over);
    }
    match AccountEnd::read(&job.payload) {
        Some(end) => hooks::on_account_end(ctx, &end).await,
        None => tracing::error!(job = %id, "an account's end is not one this version knows; it is dropped"),
    }
    ctx.faults.reach(FaultPoint::AccountHookCalled).await;
    ctx.store.outbound_job_finish(id).await?;
    Ok(Next::Over)
}
