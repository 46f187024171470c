//! Snapshot and fork of the simulated host: both copy a running or paused guest's disk at one instant.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, ErrorCode};
use wrenn_contract::proto::wrenn::host::v1::{
    CreateSandboxRequest, ForkSandboxRequest, ForkSandboxResponse, ForkedSandbox, SandboxPhase, SnapshotSandboxRequest,
    SnapshotSandboxResponse,
};

use wrenn_domain::ErrorCode as WireCode;

use super::boot::boot;
use super::guest::{Home, make_home};
use super::state::{Inner, Sim, Snapshot};

/// Writes a sandbox down under a name of the caller's.
pub(super) async fn snapshot(
    inner: Arc<Inner>,
    wish: SnapshotSandboxRequest,
) -> Result<SnapshotSandboxResponse, ConnectError> {
    let behaviour = inner.called("snapshot", &wish.sandbox_id);
    tokio::time::sleep(behaviour.delay).await;
    if let Some(code) = behaviour.refuse_snapshot {
        return Err(ConnectError::new(code, "refused on purpose"));
    }
    released(&inner).await;
    let there = inner.state.lock().expect("no panic while held").snapshots.get(&wish.snapshot_id).cloned();
    let snapshot = match there {
        Some(snapshot) => snapshot,
        None => {
            let (wish_of_source, disk) = instant(&inner, &wish.sandbox_id)?;
            let snapshot = Snapshot {
                vcpus: wish_of_source.vcpus,
                memory_mib: wish_of_source.memory_mib,
                disk_mib: wish_of_source.disk_mib,
                home: disk,
            };
            inner
                .state
                .lock()
                .expect("no panic while held")
                .snapshots
                .insert(wish.snapshot_id.clone(), snapshot.clone());
            snapshot
        }
    };
    Ok(SnapshotSandboxResponse {
        size_bytes: 4096,
        vcpus: snapshot.vcpus,
        memory_mib: snapshot.memory_mib,
        disk_mib: snapshot.disk_mib,
        paused_us: 1,
        ..Default::default()
    })
}

/// Makes children. While one of them is there, no second instant is taken and those that are not fail.
pub(super) async fn fork(inner: Arc<Inner>, wish: ForkSandboxRequest) -> Result<ForkSandboxResponse, ConnectError> {
    let behaviour = inner.called("fork", &wish.sandbox_id);
    tokio::time::sleep(behaviour.delay).await;
    if let Some(code) = behaviour.refuse_fork {
        return Err(ConnectError::new(code, "refused on purpose"));
    }
    released(&inner).await;
    let is_repeated = {
        let state = inner.state.lock().expect("no panic while held");
        wish.child_ids.iter().any(|id| state.sandboxes.contains_key(id))
    };
    if !is_repeated {
        let (source, disk) = instant(&inner, &wish.sandbox_id)?;
        let made = wish.child_ids.len().saturating_sub(behaviour.fail_children);
        let mut state = inner.state.lock().expect("no panic while held");
        for id in
            wish.child_ids.iter().take(made).filter(|id| !state.tombstones.contains(*id)).cloned().collect::<Vec<_>>()
        {
            let child = CreateSandboxRequest { sandbox_id: id.clone(), ..source.clone() };
            state.sandboxes.insert(id.clone(), Sim::new(child, disk.clone()));
            if !behaviour.hold_starts {
                tokio::spawn(boot(inner.clone(), id));
            }
        }
        state.revision += 1;
        inner.revision.send_replace(state.revision);
    }
    let state = inner.state.lock().expect("no panic while held");
    let children = wish.child_ids.iter().map(|id| match state.sandboxes.get(id) {
        Some(sim) => ForkedSandbox { sandbox_id: id.clone(), report: sim.report.clone().into(), ..Default::default() },
        None => ForkedSandbox {
            sandbox_id: id.clone(),
            error: "this child failed on purpose".to_owned(),
            error_code: WireCode::DiskFull.to_string(),
            ..Default::default()
        },
    });
    Ok(ForkSandboxResponse { children: children.collect(), paused_us: 1, ..Default::default() })
}

/// The source's sizes and a copy of its disk as it is now.
fn instant(inner: &Inner, id: &str) -> Result<(CreateSandboxRequest, Option<Home>), ConnectError> {
    let state = inner.state.lock().expect("no panic while held");
    let sim = state.sandboxes.get(id).ok_or_else(|| ConnectError::new(ErrorCode::NotFound, "no such sandbox"))?;
    match sim.report.phase.as_known() {
        Some(SandboxPhase::Running | SandboxPhase::Paused) => {}
        Some(SandboxPhase::Gone) => return Err(ConnectError::new(ErrorCode::NotFound, "no such sandbox")),
        _ => return Err(ConnectError::new(ErrorCode::FailedPrecondition, "neither running nor paused")),
    }
    let disk = sim.guest.as_ref().map(|guest| make_home(Some(guest.home().path()))).transpose();
    Ok((sim.wish.clone(), disk.map_err(|error| ConnectError::internal(format!("{error:#}")))?))
}

/// Waits while captures are held.
async fn released(inner: &Inner) {
    while inner.behaviour().hold_captures {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
