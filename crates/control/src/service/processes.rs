//! Processes in a sandbox: list and signal.

use wrenn_contract::proto::process::{ProcessInfo, Signal};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::GUEST_PROCESSES_MAX;

use super::lookup;
use crate::actor::Actor;
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
pub use crate::fleet::guest::Selector;

/// Processes that run now.
///
/// # Errors
/// When the sandbox does not run, or the guest does not do it.
pub async fn list(ctx: &Context, actor: &Actor, id: SandboxId) -> Result<Vec<ProcessInfo>, ServiceError> {
    let guest = lookup::guest(ctx, actor, id).await?;
    let mut processes = guest.list().await.map_err(guest_error)?;
    processes.truncate(GUEST_PROCESSES_MAX);
    Ok(processes)
}

/// Signals a process and its group.
///
/// # Errors
/// When the sandbox does not run, or the guest does not do it.
pub async fn signal(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    selector: &Selector,
    signal: Signal,
) -> Result<(), ServiceError> {
    let guest = lookup::guest(ctx, actor, id).await?;
    guest.signal(selector, signal).await.map_err(guest_error)
}
