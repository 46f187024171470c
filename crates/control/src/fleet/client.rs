//! Lifecycle calls to one host's agent. What comes back is parsed here and trusted afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use connectrpc::client::{CallOptions, ClientConfig};
use wrenn_contract::proto::wrenn::host::v1::{
    CreateSandboxRequest, DeleteSandboxRequest, GetConsoleRequest, GetHostRequest, GetMetricsRequest,
    HostServiceClient, ListSandboxesRequest, PingSandboxRequest, SandboxPhase, SandboxReport,
};
use wrenn_domain::ErrorCode;
use wrenn_domain::ids::{SandboxId, SnapshotId};
use wrenn_domain::limits::METRICS_FINE_POINTS;
use wrenn_domain::metadata::RESERVED;
use wrenn_domain::names::TemplateName;
use wrenn_domain::sizes::DiskMib;
use wrenn_store::pg::{HostFacts, HostImage, ReportMark, Sandbox};

use super::FleetError;
use super::relay::RelayTransport;

/// Largest list of reports taken: 4096 sandboxes of about 1 KiB, doubled.
const REPORTS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Images a host may report; more is nonsense.
const IMAGES_MAX: usize = 1000;
/// Points of one answer; the longest ring has fewer.
const METRIC_POINTS_MAX: usize = 2 * METRICS_FINE_POINTS;
const TEXT_CHARS_MAX: usize = 512;

/// One host's agent.
pub struct HostClient {
    pub(super) rpc: HostServiceClient<RelayTransport>,
    call_max: Duration,
}

/// Report of a host on one sandbox.
#[derive(Debug, Clone)]
pub struct HostReport {
    pub id: SandboxId,
    pub phase: HostPhase,
    pub mark: ReportMark,
    /// Reason of a failure or crash, fit for the user; empty when there is none.
    pub reason: String,
    /// None when the host gave none.
    pub reason_code: Option<ErrorCode>,
    /// The newest pause or resume that is over.
    pub operation: i64,
    /// Why that one did not work; empty when it did.
    pub operation_error: String,
}

/// Where a sandbox stands on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPhase {
    Starting,
    Running,
    Stopping,
    Gone,
    Failed,
    Crashed,
    Pausing,
    Paused,
    Resuming,
}

/// Use of a sandbox at one moment, or on average until then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricPoint {
    /// Unix seconds.
    pub at_unix: i64,
    /// Per cent of all its vCPUs, 0 to 100.
    pub cpu_pct: f64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Use of a sandbox lately.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Oldest first.
    pub points: Vec<MetricPoint>,
    /// Bytes of its disk used now; 0 when not known.
    pub disk_bytes: u64,
}

/// All sandboxes of a host at one revision.
#[derive(Debug, Clone)]
pub struct HostReports {
    pub revision: u64,
    pub reports: Vec<HostReport>,
}

impl HostClient {
    pub(super) fn new(transport: RelayTransport, address: &str, call_max: Duration) -> Result<Self, FleetError> {
        let base = address.parse().map_err(|_| FleetError::Nonsense("the host's address is not a URL".to_owned()))?;
        let config = ClientConfig::new(base).with_default_max_message_size(REPORTS_BYTES_MAX);
        Ok(Self { rpc: HostServiceClient::new(transport, config), call_max })
    }

    /// Asks who the host is and what it can hold.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn get_host(&self) -> Result<HostFacts, FleetError> {
        let answer = self.rpc.get_host_with_options(GetHostRequest::default(), self.deadline()).await?.into_owned();
        let sizes: BTreeMap<&str, u64> = answer.images.iter().map(|i| (i.name.as_str(), i.size_bytes)).collect();
        let names = answer.templates.iter().chain(answer.images.iter().map(|i| &i.name));
        let mut images: Vec<HostImage> = names
            .filter_map(|name| name.parse::<TemplateName>().ok())
            .take(IMAGES_MAX)
            .map(|name| HostImage { size_bytes: sizes.get(name.as_str()).copied().unwrap_or(0), name })
            .collect();
        images.sort_by(|a, b| a.name.cmp(&b.name));
        images.dedup_by(|a, b| a.name == b.name);
        Ok(HostFacts {
            agent_version: short(&answer.agent_version),
            vmm: short(&answer.vmm),
            vmm_version: short(&answer.vmm_version),
            acceleration: short(&answer.acceleration),
            cpu_cores: answer.cpu_cores,
            memory_mib: answer.memory_mib,
            disk_total_mib: answer.disk_total_mib,
            disk_free_mib: answer.disk_free_mib,
            images,
        })
    }

    /// Asks for a sandbox. Repeatable.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn create_sandbox(&self, sandbox: &Sandbox) -> Result<HostReport, FleetError> {
        let request = CreateSandboxRequest {
            sandbox_id: sandbox.id.to_string(),
            template: sandbox.template.to_string(),
            vcpus: sandbox.vcpus.get(),
            memory_mib: sandbox.memory.get(),
            disk_mib: sandbox.disk.get(),
            timeout_sec: sandbox.timeout.get(),
            default_user: sandbox.origin.default_user.clone(),
            default_env: sandbox.origin.default_env.clone().into_iter().collect(),
            snapshot_id: sandbox.origin.snapshot.map(SnapshotId::host_name).unwrap_or_default(),
            ..Default::default()
        };
        let answer = self.rpc.create_sandbox_with_options(request, self.deadline()).await?.into_owned();
        only(sandbox.id, answer.report.into_option())
    }

    /// Asks for a sandbox's end. Repeatable.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn delete_sandbox(&self, id: SandboxId) -> Result<HostReport, FleetError> {
        let request = DeleteSandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        let answer = self.rpc.delete_sandbox_with_options(request, self.deadline()).await?.into_owned();
        only(id, answer.report.into_option())
    }

    /// All reports, at once for revision 0, else when something newer is known or `wait` is over.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn list_sandboxes(&self, since_revision: u64, wait: Duration) -> Result<HostReports, FleetError> {
        let request = ListSandboxesRequest {
            since_revision,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(wait + self.call_max);
        let answer = self.rpc.list_sandboxes_with_options(request, options).await?.into_owned();
        let reports = answer.sandboxes.into_iter().filter_map(|report| match parse(report) {
            Ok(report) => Some(report),
            Err(error) => {
                tracing::warn!(%error, "a host report is left out");
                None
            }
        });
        Ok(HostReports { revision: answer.revision, reports: reports.collect() })
    }

    /// Asks what a sandbox used in the last `span_secs`, and what its disk uses now.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn metrics(&self, id: SandboxId, span_secs: u32) -> Result<Metrics, FleetError> {
        let request = GetMetricsRequest { sandbox_id: id.to_string(), span_sec: span_secs, ..Default::default() };
        let answer = self.rpc.get_metrics_with_options(request, self.deadline()).await?.into_owned();
        let points = answer.points.into_iter().take(METRIC_POINTS_MAX).map(|point| MetricPoint {
            at_unix: point.at_unix,
            cpu_pct: f64::from(point.cpu_hundredths.min(10_000)) / 100.0,
            memory_bytes: whole(point.memory_bytes),
            disk_bytes: whole(point.disk_bytes),
        });
        Ok(Metrics { points: points.collect(), disk_bytes: whole(answer.disk_bytes) })
    }

    /// Proves that the guest answers.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn ping_sandbox(&self, id: SandboxId) -> Result<(), FleetError> {
        let request = PingSandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        self.rpc.ping_sandbox_with_options(request, self.deadline()).await?;
        Ok(())
    }

    /// The last bytes a sandbox printed on its console.
    ///
    /// # Errors
    /// When the host cannot be reached, does not answer in time, refuses, or answers nonsense.
    pub async fn get_console(&self, id: SandboxId) -> Result<Vec<u8>, FleetError> {
        let request = GetConsoleRequest { sandbox_id: id.to_string(), ..Default::default() };
        Ok(self.rpc.get_console_with_options(request, self.deadline()).await?.into_owned().output)
    }

    pub(super) fn deadline(&self) -> CallOptions {
        CallOptions::default().with_timeout(self.call_max)
    }
}

/// As JSON readers can hold it.
fn whole(bytes: u64) -> u64 {
    bytes.min(i64::MAX.cast_unsigned())
}

pub(super) fn only(id: SandboxId, report: Option<SandboxReport>) -> Result<HostReport, FleetError> {
    let report = parse(report.ok_or_else(|| FleetError::Nonsense("no report".to_owned()))?)?;
    if report.id != id {
        return Err(FleetError::Nonsense(format!("a report of {} was not asked for", report.id)));
    }
    Ok(report)
}

fn parse(report: SandboxReport) -> Result<HostReport, FleetError> {
    let nonsense = |what: &str| FleetError::Nonsense(format!("a report's {what} is not valid"));
    let phase = match report.phase.as_known() {
        Some(SandboxPhase::Starting) => HostPhase::Starting,
        Some(SandboxPhase::Running) => HostPhase::Running,
        Some(SandboxPhase::Stopping) => HostPhase::Stopping,
        Some(SandboxPhase::Gone) => HostPhase::Gone,
        Some(SandboxPhase::Failed) => HostPhase::Failed,
        Some(SandboxPhase::Crashed) => HostPhase::Crashed,
        Some(SandboxPhase::Pausing) => HostPhase::Pausing,
        Some(SandboxPhase::Paused) => HostPhase::Paused,
        Some(SandboxPhase::Resuming) => HostPhase::Resuming,
        Some(SandboxPhase::Unspecified) | None => return Err(nonsense("phase")),
    };
    let operation = i64::try_from(report.operation).map_err(|_| nonsense("operation"))?;
    let operation_error = failure_text(&report);
    Ok(HostReport {
        id: report.sandbox_id.parse().map_err(|_| nonsense("sandbox id"))?,
        phase,
        mark: ReportMark {
            generation: i64::try_from(report.generation).map_err(|_| nonsense("generation"))?,
            disk: i32::try_from(report.disk_mib).ok().and_then(DiskMib::from_stored),
            started_at: moment(report.started_at_ms),
            last_active_at: moment(report.last_active_at_ms),
            since: moment(report.phase_since_ms),
            metadata: report
                .metadata
                .into_iter()
                .filter(|(key, _)| RESERVED.contains(&key.as_str()))
                .map(|(key, value)| (key, short(&value)))
                .collect(),
        },
        reason: short(&report.reason),
        reason_code: error_code(&report.reason_code),
        operation,
        operation_error,
    })
}

/// A failure without a text is a failure all the same.
fn failure_text(report: &SandboxReport) -> String {
    match (short(&report.operation_error), report.operation_error_code.as_str()) {
        (text, code) if text.is_empty() && !code.is_empty() => format!("the host says {}", short(code)),
        (text, _) => text,
    }
}

/// A host's error code; none when it gave none. A newer agent may know others: they count as agent_error.
pub(super) fn error_code(text: &str) -> Option<ErrorCode> {
    if text.is_empty() {
        return None;
    }
    Some(text.parse().unwrap_or_else(|_| {
        tracing::warn!(code = short(text), "a host's error code is not known and counts as agent_error");
        ErrorCode::AgentError
    }))
}

fn moment(unix_ms: i64) -> Option<DateTime<Utc>> {
    if unix_ms <= 0 { None } else { DateTime::from_timestamp_millis(unix_ms) }
}

pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}
