//! Making a new sandbox: what it starts from, its directory and its ledger. `start` does the rest.

use std::sync::Arc;

use super::error::StartError;
use super::live::{PartialStart, RunningSandbox, random_token};
use super::machine::MachineSizes;
use super::pools::Pools;
use super::start::Start;
use super::start_plan::{Source, StartKind};
use crate::blocking::blocking;
use crate::context::Context;
use crate::faults::Point;
use crate::ledger::{Ledger, SandboxSpec};
use crate::storage::{Capture, StorageError};

/// Makes a new sandbox.
///
/// # Errors
/// A step failed; `partial` then has what there is to give back.
pub async fn create(
    ctx: &Arc<Context>,
    pools: &Arc<Pools>,
    spec: SandboxSpec,
    partial: &mut PartialStart,
) -> Result<RunningSandbox, StartError> {
    let _in_progress = ctx.start_load.begin_start();
    let token = random_token().ok_or(StartError::Random)?;
    let (its, its_pools) = (Arc::clone(ctx), Arc::clone(pools));
    let (source, dir, ledger) = blocking(move || {
        let source = choose_source(&its, &its_pools, &spec)?;
        let dir = its.store.create_sandbox_dir(spec.id)?;
        let ledger = Ledger::begin(spec, token);
        ledger.write(&dir)?;
        Ok::<_, StartError>((source, dir, ledger))
    })
    .await?;
    ctx.faults.reach(Point::CreateBegun, None);
    let start = Start { ctx, pools, dir: &dir, kind: StartKind::Create };
    start.run(ledger, source, partial).await
}

/// Chooses a snapshot that was asked for; else the template's memory in this size; else its image, while its memory is being made.
fn choose_source(ctx: &Context, pools: &Pools, spec: &SandboxSpec) -> Result<Source, StorageError> {
    if let Some(id) = &spec.snapshot {
        let path = ctx.store.snapshot_dir(id);
        if !path.exists() {
            return Err(StorageError::NoSnapshot(id.clone()));
        }
        let capture = Capture::open(&ctx.store, &path)?;
        capture.check(&ctx.compatibility, &ctx.boot_id)?;
        return Ok(Source::Capture(Box::new(capture)));
    }
    let image = ctx.images.get(&spec.template)?;
    let sizes = MachineSizes { vcpus: spec.vcpus, memory_mib: spec.memory_mib };
    Ok(match pools.template_memories.get_or_request(ctx, &image, sizes) {
        Some(capture) => Source::Capture(Box::new(capture)),
        None => Source::Image(image),
    })
}
