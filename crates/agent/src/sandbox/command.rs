//! What can be asked of the task that owns a sandbox, and how snapshots and forks are answered.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use wrenn_domain::ids::SandboxId;

use super::birth::{Body, random_token};
use super::capture::{self, CaptureError, SNAPSHOT};
use super::registry::Registry;
use super::runner::Owner;
use crate::faults::Point;
use crate::ledger::{Ledger, Step, capture_dir};
use crate::storage::captures::discard;
use crate::storage::{Capture, StorageError};

/// One wish.
pub enum Command {
    /// Operation 0 is the time-out's.
    Pause {
        operation: u64,
    },
    Resume {
        operation: u64,
        timeout_sec: Option<u32>,
    },
    /// Under 32 hex digits.
    Snapshot {
        id: String,
        tell: oneshot::Sender<Result<Snapshot, Refused>>,
    },
    Fork {
        children: Vec<SandboxId>,
        tell: oneshot::Sender<Result<Forked, Refused>>,
    },
}

/// Text and code for the user.
pub type Refused = (String, &'static str);

/// A snapshot that counts.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    pub bytes: u64,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub stood_still: Duration,
}

/// One result for each child.
pub struct Forked {
    pub children: Vec<(SandboxId, Result<(), Refused>)>,
    pub stood_still: Duration,
}

/// Answers what cannot be done now.
pub fn refuse(command: Command, why: &str) {
    match command {
        Command::Snapshot { tell, .. } => drop(tell.send(Err((why.to_owned(), "invalid_state")))),
        Command::Fork { tell, .. } => drop(tell.send(Err((why.to_owned(), "invalid_state")))),
        Command::Pause { .. } | Command::Resume { .. } => {}
    }
}

/// Snapshot or fork of a running sandbox: it stands still for the instant only.
pub async fn answer_captures_when_running(owner: &Owner, body: &Body, command: Command) {
    let dir = owner.dir();
    match command {
        Command::Snapshot { id, tell } => {
            let place = owner.ctx().store.snapshot_dir(&id);
            let made = match Capture::open(&place) {
                Ok(there) => Ok((there, Duration::ZERO)),
                Err(_) => capture::snapshot(owner.ctx(), body, &dir, &place, &SNAPSHOT).await,
            };
            owner.ctx().faults.reach(Point::SnapshotCommitted, None);
            let made = made.and_then(|(capture, stood_still)| Ok(describe(&capture, stood_still)?));
            drop(tell.send(made.map_err(|error| say(owner, &error))));
        }
        Command::Fork { children, tell } => {
            if let Some(forked) = forked_before(&owner.registry, &children) {
                return drop(tell.send(Ok(forked)));
            }
            let place = owner.ctx().store.making_dir().join(format!("fork-{}", uuid::Uuid::new_v4().simple()));
            let instant = capture::snapshot(owner.ctx(), body, &dir, &place, &SNAPSHOT).await;
            let outcome = match instant {
                Ok((capture, stood_still)) => Ok(fork(owner, &body.ledger, &capture, children, stood_still)),
                Err(error) => Err(say(owner, &error)),
            };
            // Children have links of their own.
            if let Err(error) = discard(&place) {
                tracing::error!(error = &error as &dyn std::error::Error, "the instant of a fork does not go");
            }
            drop(tell.send(outcome));
        }
        Command::Pause { .. } | Command::Resume { .. } => {}
    }
}

/// The same of a paused one: what is on disk is shared.
pub async fn answer_captures_when_paused(owner: &Owner, ledger: &Ledger, command: Command) {
    let own = Capture::open(&ledger.capture_dir(&owner.dir())).map_err(CaptureError::from);
    match command {
        Command::Snapshot { id, tell } => {
            let place = owner.ctx().store.snapshot_dir(&id);
            let made = own.and_then(|own| match Capture::open(&place) {
                Ok(there) => Ok(there),
                Err(_) => Ok(own.link_to(&place)?),
            });
            owner.ctx().faults.reach(Point::SnapshotCommitted, None);
            let made = made.and_then(|capture| Ok(describe(&capture, Duration::ZERO)?));
            drop(tell.send(made.map_err(|error| say(owner, &error))));
        }
        Command::Fork { children, tell } => {
            if let Some(forked) = forked_before(&owner.registry, &children) {
                return drop(tell.send(Ok(forked)));
            }
            let outcome = own.map(|own| fork(owner, ledger, &own, children, Duration::ZERO));
            drop(tell.send(outcome.map_err(|error| say(owner, &error))));
        }
        Command::Pause { .. } | Command::Resume { .. } => {}
    }
}

/// The answer to a fork that was asked for before: while one of its children is there no second instant is taken.
pub fn forked_before(registry: &Registry, children: &[SandboxId]) -> Option<Forked> {
    let known = registry.known(children);
    if !known.contains(&true) {
        return None;
    }
    let lost = || Err(("its fork was interrupted before this one was made".to_owned(), "agent_error"));
    let results = children.iter().zip(known).map(|(child, known)| (*child, if known { Ok(()) } else { lost() }));
    Some(Forked { children: results.collect(), stood_still: Duration::ZERO })
}

fn say(owner: &Owner, error: &CaptureError) -> Refused {
    tracing::error!(sandbox = %owner.id, error = error as &dyn std::error::Error, "{} could not be written down", owner.id);
    error.shown()
}

fn describe(capture: &Capture, stood_still: Duration) -> Result<Snapshot, StorageError> {
    let manifest = &capture.manifest;
    Ok(Snapshot {
        bytes: capture.bytes_used()?,
        vcpus: manifest.vcpus,
        memory_mib: manifest.memory_mib,
        disk_mib: u32::try_from(manifest.disk_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX),
        stood_still,
    })
}

/// Each child gets a directory in which it is a paused sandbox that wants to run; its task does the rest.
fn fork(owner: &Owner, source: &Ledger, instant: &Capture, children: Vec<SandboxId>, stood_still: Duration) -> Forked {
    owner.ctx().faults.reach(Point::ForkCaptured, None);
    let mut results = Vec::with_capacity(children.len());
    for child in children {
        let made = owner
            .registry
            .admit_memory(child, source.wish.memory_mib)
            .map_err(|refusal| (refusal.to_string(), "no_hosts_available"))
            .and_then(|()| {
                make_child(owner, source, instant, child).map_err(|error| {
                    tracing::error!(sandbox = %child, error = &error as &dyn std::error::Error, "a fork's child could not be made");
                    ("the host could not make this fork; its log has the cause. Try again".to_owned(), "agent_error")
                })
            });
        let made = made.map(|ledger| owner.registry.adopt(ledger, None));
        if results.is_empty() {
            owner.ctx().faults.reach(Point::ForkFirstChild, None);
        }
        results.push((child, made));
    }
    owner.ctx().faults.reach(Point::ForkMade, None);
    Forked { children: results, stood_still }
}

fn make_child(owner: &Owner, source: &Ledger, instant: &Capture, id: SandboxId) -> Result<Ledger, CaptureError> {
    let store = &owner.ctx().store;
    let fresh = store.making_dir().join(id.to_string());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CaptureError::Storage(StorageError::File { act: "make", path, source })
    };
    let _ = std::fs::remove_dir_all(&fresh);
    {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(&fresh).map_err(failed(&fresh))?;
    }
    let mut wish = source.wish.clone();
    wish.id = id;
    wish.snapshot = None;
    let mut ledger = Ledger::begin(wish, random_token().map_err(|_| CaptureError::GivenUp)?);
    ledger.step = Step::Paused;
    ledger.generation = 1;
    ledger.unborn = true;
    ledger.image.clone_from(&source.image);
    ledger.workdir.clone_from(&source.workdir);
    ledger.metadata = BTreeMap::new();
    let place = store.sandbox_dir(id);
    let made = instant.link_to(&capture_dir(&fresh, 1)).map(drop).map_err(CaptureError::from).and_then(|()| {
        ledger.write(&fresh).map_err(|error| failed(&fresh)(std::io::Error::other(error)))?;
        std::fs::rename(&fresh, &place).map_err(failed(&place))?;
        Ok(store.sync_sandbox_dirs()?)
    });
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&fresh);
    }
    made.map(|()| ledger)
}
