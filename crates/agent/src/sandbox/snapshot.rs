//! Snapshots: a capture of a sandbox under a name of the caller's, from which others can start.

use std::time::Duration;

use super::capture::capture_running;
use super::command::Snapshot;
use super::error::CaptureError;
use super::live::RunningSandbox;
use super::task::SandboxTask;
use crate::blocking::blocking;
use crate::failure::{Failure, cause};
use crate::faults::Point;
use crate::ledger::Ledger;
use crate::storage::{Capture, StorageError};

/// Makes a snapshot of a running sandbox; one that is there already is answered as it is.
///
/// # Errors
/// It could not be captured; it runs on.
pub async fn snapshot_running(task: &SandboxTask, sandbox: &RunningSandbox, name: &str) -> Result<Snapshot, Failure> {
    let path = task.ctx.store.snapshot_dir(name);
    let (store, there) = (task.ctx.store.clone(), path.clone());
    let made = match blocking(move || Capture::open(&store, &there)).await {
        Ok(there) => Ok((there, Duration::ZERO)),
        Err(_) => capture_running(&task.ctx, sandbox, &task.dir(), &path).await,
    };
    task.ctx.faults.reach(Point::SnapshotCommitted, None);
    answer(task, made).await
}

/// Makes a snapshot of a paused sandbox: what is on disk is shared.
///
/// # Errors
/// The sandbox's capture cannot be used or linked.
pub async fn snapshot_paused(task: &SandboxTask, ledger: &Ledger, name: &str) -> Result<Snapshot, Failure> {
    let (store, own) = (task.ctx.store.clone(), ledger.capture_dir(&task.dir()));
    let path = store.snapshot_dir(name);
    let made = blocking(move || {
        let own = Capture::open(&store, &own)?;
        Capture::open(&store, &path).or_else(|_| own.link_to(&path))
    });
    let made = made.await.map(|capture| (capture, Duration::ZERO)).map_err(CaptureError::from);
    task.ctx.faults.reach(Point::SnapshotCommitted, None);
    answer(task, made).await
}

async fn answer(task: &SandboxTask, made: Result<(Capture, Duration), CaptureError>) -> Result<Snapshot, Failure> {
    let described = match made {
        Ok((capture, paused_for)) => blocking(move || describe(&capture, paused_for)).await.map_err(Into::into),
        Err(error) => Err(error),
    };
    described.map_err(|error| log_failure(task, &error))
}

/// Logs why a sandbox could not be captured; returns the failure that the user gets.
pub fn log_failure(task: &SandboxTask, error: &CaptureError) -> Failure {
    let id = task.id;
    tracing::error!(sandbox = %id, error = cause(error), "{id} could not be captured");
    error.failure()
}

fn describe(capture: &Capture, paused_for: Duration) -> Result<Snapshot, StorageError> {
    let manifest = &capture.manifest;
    Ok(Snapshot {
        bytes: capture.bytes_used()?,
        vcpus: manifest.vcpus,
        memory_mib: manifest.memory_mib,
        disk_mib: u32::try_from(manifest.disk_bytes().div_ceil(1 << 20)).unwrap_or(u32::MAX),
        paused_for,
    })
}
