//! Forks: children of a sandbox that all begin at one instant of it. Each gets a directory in which it is a paused sandbox that has
//! never started; its own task does the rest, also after a kill.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wrenn_domain::ids::SandboxId;

use super::board::Board;
use super::capture::capture_running;
use super::command::Forked;
use super::error::CaptureError;
use super::live::{RunningSandbox, random_token};
use super::snapshot::log_failure;
use super::task::SandboxTask;
use super::teardown::try_remove_files;
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::{ErrorCode, Failure, cause};
use crate::faults::Point;
use crate::ledger::{Ledger, Step, capture_dir};
use crate::storage::captures::discard;
use crate::storage::{Capture, StorageError};

/// Makes children of a running sandbox, which stands still for the instant only.
///
/// # Errors
/// The instant could not be captured; the sandbox runs on and there is no child.
pub async fn fork_running(
    task: &SandboxTask,
    sandbox: &RunningSandbox,
    children: Vec<SandboxId>,
) -> Result<Forked, Failure> {
    if let Some(forked) = forked_before(&task.board, &children) {
        return Ok(forked);
    }
    let path = task.ctx.store.making_dir().join(format!("fork-{}", uuid::Uuid::new_v4().simple()));
    let instant = capture_running(&task.ctx, sandbox, &task.dir(), &path).await;
    let outcome = match instant {
        Ok((capture, paused_for)) => Ok(fork(task, &sandbox.ledger, &capture, children, paused_for).await),
        Err(error) => Err(log_failure(task, &error)),
    };
    // Children have links of their own.
    let store = task.ctx.store.clone();
    if let Err(error) = blocking(move || discard(&store, &path)).await {
        tracing::error!(error = cause(&error), "the instant of a fork does not go");
    }
    outcome
}

/// Makes children of a paused sandbox: what is on disk is shared.
///
/// # Errors
/// The sandbox's capture cannot be used; there is no child.
pub async fn fork_paused(task: &SandboxTask, ledger: &Ledger, children: Vec<SandboxId>) -> Result<Forked, Failure> {
    if let Some(forked) = forked_before(&task.board, &children) {
        return Ok(forked);
    }
    let (store, own) = (task.ctx.store.clone(), ledger.capture_dir(&task.dir()));
    let own = blocking(move || Capture::open(&store, &own)).await.map_err(|error| log_failure(task, &error.into()))?;
    Ok(fork(task, ledger, &own, children, Duration::ZERO).await)
}

/// Returns the answer to a fork that was asked for before: while one of its children is there no second instant is taken.
pub fn forked_before(board: &Board, children: &[SandboxId]) -> Option<Forked> {
    let known = board.known(children);
    if !known.contains(&true) {
        return None;
    }
    let lost = || Err(Failure::new(ErrorCode::AgentError, "its fork was interrupted before this one was made"));
    let results = children.iter().zip(known).map(|(child, known)| (*child, if known { Ok(()) } else { lost() }));
    Some(Forked { children: results.collect(), paused_for: Duration::ZERO })
}

async fn fork(
    task: &SandboxTask,
    source: &Ledger,
    instant: &Capture,
    children: Vec<SandboxId>,
    paused_for: Duration,
) -> Forked {
    task.ctx.faults.reach(Point::ForkCaptured, None);
    let mut results = Vec::with_capacity(children.len());
    for child in children {
        let made = make_child(task, source, instant, child).await;
        if results.is_empty() {
            task.ctx.faults.reach(Point::ForkFirstChild, None);
        }
        results.push((child, made));
    }
    task.ctx.faults.reach(Point::ForkMade, None);
    Forked { children: results, paused_for }
}

async fn make_child(task: &SandboxTask, source: &Ledger, instant: &Capture, child: SandboxId) -> Result<(), Failure> {
    let admitted = task.board.admit_memory(child, source.spec.memory_mib);
    admitted.map_err(|refusal| Failure::new(ErrorCode::NoHostsAvailable, refusal.to_string()))?;
    let (ctx, source, instant) = (Arc::clone(&task.ctx), source.clone(), instant.clone());
    let written = blocking(move || write_child(&ctx, &source, &instant, child)).await;
    let ledger = written.map_err(|error| {
        tracing::error!(sandbox = %child, error = cause(&error), "a fork's child could not be made");
        Failure::new(ErrorCode::AgentError, "the host could not make this fork; its log has the cause. Try again")
    })?;
    if (task.adopt)(ledger) {
        return Ok(());
    }
    // A later agent would find it and start it.
    if let Err(error) = try_remove_files(&task.ctx, child).await {
        tracing::error!(sandbox = %child, error = cause(&error), "the files of a deleted child do not go");
    }
    Err(Failure::new(ErrorCode::Conflict, "the fork was deleted before it was made"))
}

/// Writes a child's directory under another name and gives it its own in one step. Blocks.
fn write_child(ctx: &Context, source: &Ledger, instant: &Capture, id: SandboxId) -> Result<Ledger, CaptureError> {
    let fresh = ctx.store.making_dir().join(id.to_string());
    let mut spec = source.spec.clone();
    spec.id = id;
    spec.snapshot = None;
    let mut ledger = Ledger::begin(spec, random_token().ok_or(CaptureError::Random)?);
    ledger.step = Step::Paused;
    ledger.generation = 1;
    ledger.never_started = true;
    ledger.image.clone_from(&source.image);
    ledger.disks.clone_from(&source.disks);
    ledger.workdir.clone_from(&source.workdir);
    ledger.metadata = BTreeMap::new();
    let made = lay_out_child(ctx, &fresh, instant, &ledger);
    if made.is_err() {
        let _ = ctx.store.remove_dir(&fresh);
    }
    made.map(|()| ledger)
}

fn lay_out_child(ctx: &Context, fresh: &Path, instant: &Capture, ledger: &Ledger) -> Result<(), CaptureError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StorageError::File { act: "make", path, source }
    };
    let _ = ctx.store.remove_dir(fresh);
    std::fs::DirBuilder::new().mode(0o700).create(fresh).map_err(failed(fresh))?;
    instant.link_to(&capture_dir(fresh, ledger.generation))?;
    ledger.write(fresh)?;
    let path = ctx.store.sandbox_dir(ledger.spec.id);
    std::fs::rename(fresh, &path).map_err(failed(&path))?;
    Ok(ctx.store.sync_sandbox_dirs()?)
}
