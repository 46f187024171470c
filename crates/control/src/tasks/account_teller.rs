//! Tells the hooks of extensions that an account ended. Their errors are logged and no more; but a process that dies before they
//! were called leaves the errand to another.

use std::sync::Arc;

use wrenn_domain::limits::ACCOUNT_HOOK_TRIES_MAX;
use wrenn_store::StoreError;
use wrenn_store::pg::{Errand, ErrandKind};

use super::work::{self, Next, hold, settle};
use crate::context::Context;
use crate::extension::hooks::{self, AccountEnd};
use crate::fault::FaultPoint;

pub(super) async fn run(ctx: Arc<Context>) {
    // What is owed to hooks is not for a control plane that has none.
    if !hooks::hear_of_accounts(&ctx) {
        return std::future::pending().await;
    }
    work::run(ctx, ErrandKind::AccountHook, drive).await;
}

async fn drive(ctx: Arc<Context>, errand: Errand) {
    ctx.faults.reach(FaultPoint::AccountHookClaimed).await;
    if let Some(next) = hold(&ctx, ErrandKind::AccountHook, errand.id, step(&ctx, &errand)).await {
        settle(&ctx, ErrandKind::AccountHook, errand.id, next).await;
    }
}

async fn step(ctx: &Context, errand: &Errand) -> Result<Next, StoreError> {
    let id = errand.id;
    if errand.attempts > ACCOUNT_HOOK_TRIES_MAX {
        tracing::error!(errand = %id, "hooks were not told of an account's end: each try ended with its process");
        ctx.store.errand_bury(id, "its process died in every try").await?;
        return Ok(Next::Over);
    }
    match AccountEnd::read(&errand.payload) {
        Some(end) => hooks::on_account_end(ctx, &end).await,
        None => tracing::error!(errand = %id, "an account's end is not one this version knows; it is dropped"),
    }
    ctx.faults.reach(FaultPoint::AccountHookCalled).await;
    ctx.store.errand_finish(id).await?;
    Ok(Next::Over)
}
