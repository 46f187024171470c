//! Calls to a host about a sandbox's memory: pause, resume, snapshot, fork.

use connectrpc::client::CallOptions;
use wrenn_contract::proto::wrenn::host::v1::{
    DeleteSnapshotRequest, ForkSandboxRequest, PauseSandboxRequest, ResumeSandboxRequest, SnapshotSandboxRequest,
};
use wrenn_domain::SandboxErrorCode;
use wrenn_domain::ids::{SandboxId, SnapshotId};
use wrenn_domain::limits::CAPTURE_CALL_MAX;
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};
use wrenn_store::pg::{Captured, Sandbox, SandboxError};

use super::client::{error_code, only, short};
use super::{FleetError, HostClient, HostReport};

/// Outcome of one child of a fork.
#[derive(Debug)]
pub struct ForkedChild {
    pub id: SandboxId,
    /// The child's report, or why it was not made.
    pub outcome: Result<HostReport, SandboxError>,
}

impl HostClient {
    /// Asks for a pause. Repeatable.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn pause_sandbox(&self, sandbox: &Sandbox) -> Result<HostReport, FleetError> {
        let request = PauseSandboxRequest {
            sandbox_id: sandbox.id.to_string(),
            operation: u64::try_from(sandbox.operation).unwrap_or(0),
            ..Default::default()
        };
        let answer = self.rpc.pause_sandbox_with_options(request, self.deadline()).await?.into_owned();
        only(sandbox.id, answer.report.into_option())
    }

    /// Asks for a resume. Repeatable.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn resume_sandbox(&self, sandbox: &Sandbox) -> Result<HostReport, FleetError> {
        let request = ResumeSandboxRequest {
            sandbox_id: sandbox.id.to_string(),
            operation: u64::try_from(sandbox.operation).unwrap_or(0),
            timeout_sec: Some(sandbox.timeout.get()),
            ..Default::default()
        };
        let answer = self.rpc.resume_sandbox_with_options(request, self.deadline()).await?.into_owned();
        only(sandbox.id, answer.report.into_option())
    }

    /// Has a sandbox written down as `snapshot` and waits for it, up to [`CAPTURE_CALL_MAX`]. Repeatable.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn snapshot_sandbox(&self, id: SandboxId, snapshot: SnapshotId) -> Result<Captured, FleetError> {
        let request = SnapshotSandboxRequest {
            sandbox_id: id.to_string(),
            snapshot_id: snapshot.host_name(),
            ..Default::default()
        };
        let answer = self.rpc.snapshot_sandbox_with_options(request, long()).await?.into_owned();
        let sizes = (size(answer.vcpus), size(answer.memory_mib), size(answer.disk_mib));
        let (Some(vcpus), Some(memory), Some(disk)) = (
            sizes.0.and_then(Vcpus::from_stored),
            sizes.1.and_then(MemoryMib::from_stored),
            sizes.2.and_then(DiskMib::from_stored),
        ) else {
            return Err(FleetError::Nonsense("a snapshot without sizes".to_owned()));
        };
        Ok(Captured { size_bytes: i64::try_from(answer.size_bytes).unwrap_or(i64::MAX), vcpus, memory, disk })
    }

    /// Has a snapshot's files removed. Repeatable.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<(), FleetError> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot.host_name(), ..Default::default() };
        self.rpc.delete_snapshot_with_options(request, self.deadline()).await?;
        Ok(())
    }

    /// Has children made and waits for it, up to [`CAPTURE_CALL_MAX`]. Repeatable with the same children. Answers one outcome
    /// for each, in their order.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
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
                    None => Err(child_error(&said.error, &said.error_code)),
                };
                Ok(ForkedChild { id: *child, outcome })
            })
            .collect()
    }
}

fn child_error(text: &str, code: &str) -> SandboxError {
    let message = if text.is_empty() { "the host could not make this child".to_owned() } else { short(text) };
    SandboxError { message, code: error_code(code).map(SandboxErrorCode::Ended) }
}

/// A size as a host reports it, if it can be one at all.
fn size(reported: u32) -> Option<i32> {
    i32::try_from(reported).ok()
}

fn long() -> CallOptions {
    CallOptions::default().with_timeout(CAPTURE_CALL_MAX)
}
