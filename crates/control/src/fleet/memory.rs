//! Calls to a host about a sandbox's memory: pause, resume, snapshot, fork.

use connectrpc::client::CallOptions;
use uuid::Uuid;
use wrenn_contract::proto::wrenn::host::v1::{
    DeleteSnapshotRequest, ForkSandboxRequest, PauseSandboxRequest, ResumeSandboxRequest, SnapshotSandboxRequest,
};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::CAPTURE_CALL_MAX;
use wrenn_store::pg::{Captured, Sandbox};

use super::client::{only, short};
use super::{FleetError, HostClient, HostReport};

/// What became of one child of a fork.
#[derive(Debug)]
pub struct ForkedChild {
    pub id: SandboxId,
    /// Its report, or text for the user and code of what went wrong.
    pub outcome: Result<HostReport, (String, String)>,
}

impl HostClient {
    /// Asks for a pause. Repeatable.
    pub async fn pause_sandbox(&self, wish: &Sandbox) -> Result<HostReport, FleetError> {
        let request = PauseSandboxRequest {
            sandbox_id: wish.id.to_string(),
            operation: u64::try_from(wish.operation).unwrap_or(0),
            ..Default::default()
        };
        let answer = self.rpc.pause_sandbox_with_options(request, self.deadline()).await?.into_owned();
        only(wish.id, answer.report.into_option())
    }

    /// Asks for a resume. Repeatable.
    pub async fn resume_sandbox(&self, wish: &Sandbox) -> Result<HostReport, FleetError> {
        let request = ResumeSandboxRequest {
            sandbox_id: wish.id.to_string(),
            operation: u64::try_from(wish.operation).unwrap_or(0),
            timeout_sec: Some(wish.timeout_sec),
            ..Default::default()
        };
        let answer = self.rpc.resume_sandbox_with_options(request, self.deadline()).await?.into_owned();
        only(wish.id, answer.report.into_option())
    }

    /// Has a sandbox written down as `snapshot` and waits for it, up to [`CAPTURE_CALL_MAX`]. Repeatable.
    pub async fn snapshot_sandbox(&self, id: SandboxId, snapshot: Uuid) -> Result<Captured, FleetError> {
        let request = SnapshotSandboxRequest {
            sandbox_id: id.to_string(),
            snapshot_id: snapshot.simple().to_string(),
            ..Default::default()
        };
        let answer = self.rpc.snapshot_sandbox_with_options(request, long()).await?.into_owned();
        let is_whole =
            [answer.vcpus, answer.memory_mib, answer.disk_mib].iter().all(|n| *n > 0 && *n <= i32::MAX as u32);
        if !is_whole {
            return Err(FleetError::Nonsense("a snapshot without sizes".to_owned()));
        }
        Ok(Captured {
            size_bytes: i64::try_from(answer.size_bytes).unwrap_or(i64::MAX),
            vcpus: answer.vcpus,
            memory_mib: answer.memory_mib,
            disk_mib: answer.disk_mib,
        })
    }

    /// Has a snapshot's files removed. Repeatable.
    pub async fn delete_snapshot(&self, snapshot: Uuid) -> Result<(), FleetError> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot.simple().to_string(), ..Default::default() };
        self.rpc.delete_snapshot_with_options(request, self.deadline()).await?;
        Ok(())
    }

    /// Has children made and waits for it, up to [`CAPTURE_CALL_MAX`]. Repeatable with the same children. Answers one outcome
    /// for each, in their order.
    pub async fn fork_sandbox(&self, id: SandboxId, children: &[SandboxId]) -> Result<Vec<ForkedChild>, FleetError> {
        let request = ForkSandboxRequest {
            sandbox_id: id.to_string(),
            child_ids: children.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let mut answer = self.rpc.fork_sandbox_with_options(request, long()).await?.into_owned();
        children
            .iter()
            .map(|child| {
                let text = child.to_string();
                let place = answer.children.iter().position(|said| said.sandbox_id == text);
                let said = place.map(|place| answer.children.swap_remove(place));
                let said = said.ok_or_else(|| FleetError::Nonsense(format!("no word of the child {child}")))?;
                let outcome = match said.report.into_option() {
                    Some(report) => Ok(only(*child, Some(report))?),
                    None if said.error.is_empty() => {
                        Err(("the host could not make this child".to_owned(), short(&said.error_code)))
                    }
                    None => Err((short(&said.error), short(&said.error_code))),
                };
                Ok(ForkedChild { id: *child, outcome })
            })
            .collect()
    }
}

fn long() -> CallOptions {
    CallOptions::default().with_timeout(CAPTURE_CALL_MAX)
}
