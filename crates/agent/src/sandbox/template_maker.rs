//! Makes memories of templates: each image is booted once per size, left to settle, and captured.
//!
//! It works in the background, one after another: ahead of time in the sizes the operator names, else on first use, while the first
//! request boots.

use crate::failure::cause;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wrenn_domain::ids::SandboxId;
use wrenn_linux::process::cpu_ticks;
use wrenn_vmm::Machine;

use super::capture::{AfterCapture, CapturePlan, FaultPoints, write_capture};
use super::error::{CaptureError, StartError};
use super::live::{PartialStart, RunningSandbox, random_token};
use super::machine::MachineSizes;
use super::pools::Pools;
use super::start::Start;
use super::start_plan::{Source, StartKind};
use super::teardown::{release, release_partial, remove_scratch};
use super::template_memory::{MemoryKey, name_prefix, path};
use crate::blocking::blocking;
use crate::context::Context;
use crate::ledger::{Ledger, SandboxSpec};
use crate::storage::captures::discard;
use crate::storage::{Capture, Image, StorageError};

/// A guest has settled when it used less than this share of one processor...
const SETTLED_PERCENT: u64 = 10;
/// ...in so many measurements in a row...
const SETTLED_IN_A_ROW: u32 = 4;
const MEASURE_EVERY: Duration = Duration::from_millis(250);
/// ...and is taken as it is after this.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Memories kept on the disk at most, all templates and sizes together; a typical one takes 300 MiB. For one more, the one not used
/// longest goes: its next sandbox boots.
const MEMORIES_MAX: usize = 32;
/// After a failure the same memory is not tried again for this long.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// A template's memory was not made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("its guest did not start")]
    Start(#[from] StartError),
    #[error("it could not be captured")]
    Capture(#[from] CaptureError),
    #[error("its files could not be kept")]
    Storage(#[from] StorageError),
}

/// Makes the memories that are asked for, for as long as the agent runs.
pub async fn make_template_memories(ctx: Arc<Context>, pools: Arc<Pools>) {
    let (its, its_pools) = (Arc::clone(&ctx), Arc::clone(&pools));
    blocking(move || {
        remove_old(&its);
        expect_configured(&its, &its_pools);
    })
    .await;
    let mut failed_at: BTreeMap<MemoryKey, Instant> = BTreeMap::new();
    loop {
        let key = pools.template_memories.next().await;
        if failed_at.get(&key).is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            continue;
        }
        let (its, its_pools, wanted) = (Arc::clone(&ctx), Arc::clone(&pools), key.clone());
        let missing = blocking(move || {
            let image = its.images.get(&wanted.image).ok()?;
            its_pools.template_memories.get_or_request(&its, &image, wanted.sizes).is_none().then_some(image)
        });
        let Some(image) = missing.await else { continue };
        let MachineSizes { vcpus, memory_mib } = key.sizes;
        match make(&ctx, &pools, &image, key.sizes).await {
            Ok(capture) => {
                failed_at.remove(&key);
                pools.expect_template(&capture);
                tracing::info!(template = %key.image, vcpus, memory_mib,
                    "{} has its memory for {vcpus} vCPU and {memory_mib} MiB", key.image);
            }
            Err(error) => {
                tracing::error!(template = %key.image, error = cause(&error), "the memory of a template could not be made");
                failed_at.insert(key.clone(), Instant::now());
            }
        }
        // The check above found it missing and asked again.
        pools.template_memories.forget_request(&key);
    }
}

/// Asks for the memories the operator wants ahead of time.
fn expect_configured(ctx: &Context, pools: &Pools) {
    for image in ctx.images.list() {
        for &memory_mib in &ctx.config.prepare_mib {
            let sizes = MachineSizes { vcpus: 1, memory_mib };
            if let Some(capture) = pools.template_memories.get_or_request(ctx, &image, sizes) {
                pools.expect_template(&capture);
            }
        }
    }
}

/// Removes memories of images that were replaced, and what an interrupted agent left half-made.
fn remove_old(ctx: &Context) {
    let known: Vec<String> = ctx.images.list().iter().map(|image| name_prefix(image)).collect();
    for path in memories(ctx) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let half_made = name.ends_with(".new") || name.ends_with(".gone");
        if !half_made && known.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let removed = if half_made { ctx.store.remove_dir(&path) } else { discard(&ctx.store, &path) };
        if let Err(error) = removed {
            tracing::error!(error = cause(&error), %name, "an old template's memory does not go");
        }
    }
}

fn memories(ctx: &Context) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(ctx.store.template_dir("")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

async fn make(
    ctx: &Arc<Context>,
    pools: &Arc<Pools>,
    image: &Arc<Image>,
    sizes: MachineSizes,
) -> Result<Capture, MakeError> {
    let path = path(ctx, image, sizes);
    let id = SandboxId::from_uuid(uuid::Uuid::new_v4());
    let dir = ctx.store.making_dir().join(id.to_string());
    let (its, its_pools, its_path, its_dir) = (Arc::clone(ctx), Arc::clone(pools), path.clone(), dir.clone());
    blocking(move || make_room(&its, &its_pools, &its_path, &its_dir)).await?;
    let spec = SandboxSpec {
        template: image.name.clone(),
        vcpus: sizes.vcpus,
        memory_mib: sizes.memory_mib,
        disk_mib: u32::try_from(image.bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX),
        ..SandboxSpec::empty(id)
    };
    let mut partial = PartialStart::default();
    let made = async {
        let ledger = Ledger::begin(spec, random_token().ok_or(StartError::Random)?);
        let start = Start { ctx, pools, dir: &dir, kind: StartKind::Template };
        let sandbox = start.run(ledger, Source::Image(Arc::clone(image)), &mut partial).await?;
        let written = write(ctx, &sandbox, &dir, &path).await;
        release(ctx, Some(sandbox.slot), Some(sandbox.machine)).await;
        written
    };
    let outcome = made.await;
    release_partial(ctx, partial).await;
    remove_scratch(ctx, dir).await;
    outcome
}

/// Removes an unusable memory of the same name and those that make room for one more, and makes the directory to work in.
fn make_room(ctx: &Context, pools: &Pools, path: &Path, dir: &Path) -> Result<(), StorageError> {
    ctx.store.admit()?;
    discard(&ctx.store, path)?;
    for old in pools.template_memories.surplus(memories(ctx), MEMORIES_MAX) {
        tracing::info!(path = %old.display(), "a template's memory makes room for another");
        discard(&ctx.store, &old)?;
    }
    let failed = |source| StorageError::File { act: "create", path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)
}

async fn write(ctx: &Arc<Context>, sandbox: &RunningSandbox, dir: &Path, path: &Path) -> Result<Capture, MakeError> {
    settle(&sandbox.machine).await;
    // What is interrupted here is simply made again: no step of it is named.
    let plan = CapturePlan { dir, path, after: AfterCapture::StayPaused, points: FaultPoints::default() };
    let (draft, _) = write_capture(ctx, sandbox, &plan).await?;
    let committed = blocking(move || {
        let capture = draft.commit()?;
        let bytes = capture.bytes_used()?;
        Ok::<_, StorageError>((capture, bytes))
    });
    let (capture, bytes) = committed.await?;
    tracing::debug!(bytes, "a template's memory is written");
    Ok(capture)
}

/// Waits until the guest has nothing left to do after its boot.
async fn settle(machine: &Arc<dyn Machine>) {
    let pid = machine.record().process.pid;
    let quiet = async {
        let mut in_a_row = 0;
        let mut before = cpu_ticks(pid);
        while in_a_row < SETTLED_IN_A_ROW {
            tokio::time::sleep(MEASURE_EVERY).await;
            let (Some(then), Some(now)) = (before, cpu_ticks(pid)) else { return };
            // Ticks are hundredths of a second.
            let percent = (now - then) * 1000 / u64::try_from(MEASURE_EVERY.as_millis()).unwrap_or(1);
            in_a_row = if percent < SETTLED_PERCENT { in_a_row + 1 } else { 0 };
            before = Some(now);
        }
    };
    let _ = tokio::time::timeout(SETTLE_MAX, quiet).await;
}
