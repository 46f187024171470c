//! `wrenn.host.v1.HostService`: parse, ask the registry, answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use connectrpc::{ConnectError, ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult};
use wrenn_contract::guest::HEALTH;
use wrenn_contract::proto::wrenn::host::v1::{
    CreateSandboxRequest, CreateSandboxResponse, DeleteSandboxRequest, DeleteSandboxResponse, DeleteSnapshotRequest,
    DeleteSnapshotResponse, ForkSandboxRequest, ForkSandboxResponse, ForkedSandbox, GetConsoleRequest,
    GetConsoleResponse, GetHostRequest, GetHostResponse, GetMetricsRequest, GetMetricsResponse, HostImage, HostService,
    ListSandboxesRequest, ListSandboxesResponse, MetricPoint, PauseSandboxRequest, PauseSandboxResponse,
    PingSandboxRequest, PingSandboxResponse, ResumeSandboxRequest, ResumeSandboxResponse, SandboxPhase, SandboxReport,
    SnapshotSandboxRequest, SnapshotSandboxResponse,
};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::FORK_CHILDREN_MAX;
use wrenn_domain::sizes::{DiskMib, MemoryMib, Vcpus};

use super::error::connect_error;
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::host::memory_total_mib;
use crate::ledger::SandboxSpec;
use crate::sandbox::{Phase, Point, Refusal, Registry, Report, Used};

/// A healthy guest answers in milliseconds.
const PING_WAIT: Duration = Duration::from_secs(5);

/// The service.
pub struct Host(pub Arc<Registry>);

#[allow(refining_impl_trait)]
impl HostService for Host {
    async fn get_host(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, GetHostRequest>,
    ) -> ServiceResult<GetHostResponse> {
        let ctx = &self.0.ctx;
        let store = ctx.store.clone();
        let room = blocking(move || store.room()).await.map_err(|error| connect_error(&Refusal::Storage(error)))?;
        let images = ctx.images.list();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Response::ok(GetHostResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: ctx.driver.name().to_owned(),
            vmm_version: ctx.driver.version().to_owned(),
            acceleration: ctx.driver.acceleration().as_str().to_owned(),
            cpu_cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory_mib: memory_total_mib(),
            memory_for_guests_mib: self.0.board.memory_for_guests_mib(),
            disk_total_mib: room.total >> 20,
            disk_free_mib: room.free >> 20,
            templates: images.iter().map(|image| image.name.clone()).collect(),
            images: images
                .iter()
                .map(|image| HostImage { name: image.name.clone(), size_bytes: image.bytes, ..Default::default() })
                .collect(),
            ..Default::default()
        })
    }

    async fn create_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CreateSandboxRequest>,
    ) -> ServiceResult<CreateSandboxResponse> {
        let spec = spec(request.to_owned_message())?;
        let report = self.0.create(spec).await.map_err(|refusal| connect_error(&refusal))?;
        Response::ok(CreateSandboxResponse { report: render(report).into(), ..Default::default() })
    }

    async fn delete_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSandboxRequest>,
    ) -> ServiceResult<DeleteSandboxResponse> {
        let report = self.0.delete(id(request.sandbox_id)?);
        Response::ok(DeleteSandboxResponse { report: render(report).into(), ..Default::default() })
    }

    async fn pause_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, PauseSandboxRequest>,
    ) -> ServiceResult<PauseSandboxResponse> {
        let report = self.0.pause(id(request.sandbox_id)?, request.operation).map_err(|r| connect_error(&r))?;
        Response::ok(PauseSandboxResponse { report: render(report).into(), ..Default::default() })
    }

    async fn resume_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ResumeSandboxRequest>,
    ) -> ServiceResult<ResumeSandboxResponse> {
        let report = self.0.resume(id(request.sandbox_id)?, request.operation, request.timeout_sec);
        let report = report.map_err(|refusal| connect_error(&refusal))?;
        Response::ok(ResumeSandboxResponse { report: render(report).into(), ..Default::default() })
    }

    async fn snapshot_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SnapshotSandboxRequest>,
    ) -> ServiceResult<SnapshotSandboxResponse> {
        let (id, name) = (id(request.sandbox_id)?, snapshot_id(request.snapshot_id)?);
        let made = self.0.snapshot(id, name).await.map_err(|refusal| connect_error(&refusal))?;
        Response::ok(SnapshotSandboxResponse {
            size_bytes: made.bytes,
            vcpus: made.vcpus,
            memory_mib: made.memory_mib,
            disk_mib: made.disk_mib,
            paused_us: u32::try_from(made.paused_for.as_micros()).unwrap_or(u32::MAX),
            ..Default::default()
        })
    }

    async fn delete_snapshot(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSnapshotRequest>,
    ) -> ServiceResult<DeleteSnapshotResponse> {
        let name = snapshot_id(request.snapshot_id)?;
        self.0.delete_snapshot(&name).await.map_err(|refusal| connect_error(&refusal))?;
        Response::ok(DeleteSnapshotResponse::default())
    }

    async fn fork_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ForkSandboxRequest>,
    ) -> ServiceResult<ForkSandboxResponse> {
        let asked = request.to_owned_message();
        let source = id(&asked.sandbox_id)?;
        let children = asked.child_ids.iter().map(|child| id(child)).collect::<Result<Vec<_>, _>>()?;
        if children.is_empty() || children.len() > FORK_CHILDREN_MAX as usize {
            return Err(invalid(format!("a fork has 1 to {FORK_CHILDREN_MAX} children")));
        }
        let forked = self.0.fork(source, children).await.map_err(|refusal| connect_error(&refusal))?;
        let children = forked.children.into_iter().map(|(child, made)| {
            let (report, failure) = match made {
                Ok(()) => (self.0.report(child), None),
                Err(failure) => (None, Some(failure)),
            };
            let (error, error_code) = wire(failure);
            ForkedSandbox {
                sandbox_id: child.to_string(),
                report: report.map(render).into(),
                error,
                error_code,
                ..Default::default()
            }
        });
        Response::ok(ForkSandboxResponse {
            children: children.collect(),
            paused_us: u32::try_from(forked.paused_for.as_micros()).unwrap_or(u32::MAX),
            ..Default::default()
        })
    }

    async fn list_sandboxes(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ListSandboxesRequest>,
    ) -> ServiceResult<ListSandboxesResponse> {
        let wait = Duration::from_millis(u64::from(request.wait_ms));
        let (revision, reports) = self.0.list(request.since_revision, wait).await;
        let sandboxes = reports.into_iter().map(render).collect();
        Response::ok(ListSandboxesResponse { revision, sandboxes, ..Default::default() })
    }

    async fn ping_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, PingSandboxRequest>,
    ) -> ServiceResult<PingSandboxResponse> {
        let id = id(request.sandbox_id)?;
        let (running, _active) = self.0.running(id).map_err(|refusal| connect_error(&refusal))?;
        let mut ask = http::Request::new(Body::empty());
        *ask.uri_mut() = http::Uri::from_static(HEALTH);
        match tokio::time::timeout(PING_WAIT, running.guest.send(ask)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Response::ok(PingSandboxResponse::default()),
            _ => Err(connect_error(&Refusal::Unresponsive)),
        }
    }

    async fn get_console(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetConsoleRequest>,
    ) -> ServiceResult<GetConsoleResponse> {
        let id = id(request.sandbox_id)?;
        let (running, _active) = self.0.running(id).map_err(|refusal| connect_error(&refusal))?;
        Response::ok(GetConsoleResponse { output: running.machine.console().await, ..Default::default() })
    }

    async fn get_metrics(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetMetricsRequest>,
    ) -> ServiceResult<GetMetricsResponse> {
        let id = id(request.sandbox_id)?;
        let Used { points, disk_bytes } =
            self.0.used(id, request.span_sec).await.map_err(|refusal| connect_error(&refusal))?;
        let points = points.into_iter().map(metric_point).collect();
        Response::ok(GetMetricsResponse { points, disk_bytes, ..Default::default() })
    }
}

fn metric_point(point: Point) -> MetricPoint {
    MetricPoint {
        at_unix: i64::from(point.at),
        cpu_hundredths: u32::from(point.cpu),
        memory_bytes: u64::from(point.memory_kib) * 1024,
        disk_bytes: u64::from(point.disk_kib) * 1024,
        ..Default::default()
    }
}

fn invalid(text: impl Into<String>) -> ConnectError {
    ConnectError::new(ErrorCode::InvalidArgument, text.into())
}

fn id(text: &str) -> Result<SandboxId, ConnectError> {
    text.parse().map_err(|error: wrenn_domain::ids::InvalidId| invalid(error.to_string()))
}

/// Parses a snapshot's id, which becomes a directory's name.
fn snapshot_id(text: &str) -> Result<String, ConnectError> {
    if text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(text.to_owned());
    }
    Err(invalid("a snapshot id has 32 hex digits"))
}

/// Parses a request for a sandbox. Everything is checked again: an agent does not trust what a control plane should have checked.
fn spec(request: CreateSandboxRequest) -> Result<SandboxSpec, ConnectError> {
    let refused = |failure: wrenn_domain::failure::Failure| invalid(failure.message);
    Ok(SandboxSpec {
        id: id(&request.sandbox_id)?,
        template: request.template,
        vcpus: Vcpus::parse(i64::from(request.vcpus)).map_err(refused)?.get(),
        memory_mib: MemoryMib::parse(i64::from(request.memory_mib)).map_err(refused)?.get(),
        disk_mib: DiskMib::parse(i64::from(request.disk_mib)).map_err(refused)?.get(),
        timeout_sec: request.timeout_sec,
        default_user: request.default_user,
        default_env: request.default_env.into_iter().collect(),
        snapshot: match request.snapshot_id.as_str() {
            "" => None,
            text => Some(snapshot_id(text)?),
        },
    })
}

/// Renders text and code of a failure; both are empty when there is none.
fn wire(failure: Option<Failure>) -> (String, String) {
    failure.map_or_else(Default::default, |failure| (failure.message, failure.code.as_str().to_owned()))
}

fn render(report: Report) -> SandboxReport {
    let phase = match report.phase {
        Phase::Starting => SandboxPhase::Starting,
        Phase::Running => SandboxPhase::Running,
        Phase::Stopping => SandboxPhase::Stopping,
        Phase::Gone => SandboxPhase::Gone,
        Phase::Failed => SandboxPhase::Failed,
        Phase::Crashed => SandboxPhase::Crashed,
        Phase::Pausing => SandboxPhase::Pausing,
        Phase::Paused => SandboxPhase::Paused,
        Phase::Resuming => SandboxPhase::Resuming,
    };
    let (reason, reason_code) = wire(report.reason);
    let (operation_error, operation_error_code) = wire(report.operation_failure);
    SandboxReport {
        sandbox_id: report.spec.id.to_string(),
        generation: report.generation,
        phase: phase.into(),
        template: report.spec.template,
        vcpus: report.spec.vcpus,
        memory_mib: report.spec.memory_mib,
        disk_mib: report.spec.disk_mib,
        started_at_ms: report.started_at_ms,
        last_active_at_ms: report.last_active_at_ms,
        metadata: report.metadata.into_iter().collect(),
        reason,
        reason_code,
        operation: report.operation,
        operation_error,
        operation_error_code,
        timeout_sec: report.spec.timeout_sec,
        phase_since_ms: report.phase_since_ms,
        ..Default::default()
    }
}
