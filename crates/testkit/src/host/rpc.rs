//! HostService of the simulated host.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use connectrpc::{ConnectError, ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult};
use wrenn_contract::proto::wrenn::host::v1::{
    CreateSandboxRequest, CreateSandboxResponse, DeleteSandboxRequest, DeleteSandboxResponse, DeleteSnapshotRequest,
    DeleteSnapshotResponse, ForkSandboxRequest, ForkSandboxResponse, GetConsoleRequest, GetConsoleResponse,
    GetHostRequest, GetHostResponse, GetMetricsRequest, GetMetricsResponse, HostImage, HostService,
    ListSandboxesRequest, ListSandboxesResponse, PauseSandboxRequest, PauseSandboxResponse, PingSandboxRequest,
    PingSandboxResponse, ResumeSandboxRequest, ResumeSandboxResponse, SandboxPhase, SandboxReport,
    SnapshotSandboxRequest, SnapshotSandboxResponse,
};

use super::boot::boot;
use super::state::{Inner, Sim};
use super::{capture, pause};

pub(super) struct Rpc(pub(super) Arc<Inner>);

#[allow(refining_impl_trait)]
impl HostService for Rpc {
    async fn get_host(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, GetHostRequest>,
    ) -> ServiceResult<GetHostResponse> {
        let behaviour = self.0.behaviour();
        tokio::time::sleep(behaviour.delay).await;
        Response::ok(GetHostResponse {
            agent_version: "sim".to_owned(),
            vmm: "none".to_owned(),
            vmm_version: "0".to_owned(),
            acceleration: "none".to_owned(),
            cpu_cores: 16,
            memory_mib: if behaviour.memory_mib == 0 { 65_536 } else { behaviour.memory_mib },
            disk_total_mib: 1_000_000,
            disk_free_mib: 900_000,
            templates: vec!["minimal".to_owned(), "second".to_owned()],
            images: vec![HostImage { name: "minimal".to_owned(), size_bytes: 5_368_709_120, ..Default::default() }],
            ..Default::default()
        })
    }

    async fn create_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CreateSandboxRequest>,
    ) -> ServiceResult<CreateSandboxResponse> {
        let wish = request.to_owned_message();
        // Goes on when the caller hangs up, as a real host does.
        let report =
            tokio::spawn(create(self.0.clone(), wish)).await.map_err(|_| ConnectError::internal("panicked"))??;
        Response::ok(CreateSandboxResponse { report: report.into(), ..Default::default() })
    }

    async fn delete_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSandboxRequest>,
    ) -> ServiceResult<DeleteSandboxResponse> {
        let id = request.to_owned_message().sandbox_id;
        let behaviour = self.0.behaviour();
        tokio::time::sleep(behaviour.delay).await;
        {
            let mut state = self.0.state.lock().expect("no panic while held");
            *state.deletes.entry(id.clone()).or_default() += 1;
            if let Some(code) = behaviour.refuse_delete {
                return Err(ConnectError::new(code, "refused on purpose"));
            }
            state.tombstones.insert(id.clone());
        }
        let report = if behaviour.hold_deletes {
            self.0.change(&id, |sim| {
                (sim.guest, sim.home) = (None, None);
                sim.report.phase = SandboxPhase::Stopping.into();
            })
        } else {
            self.0.finish_delete(&id)
        };
        let report = report.unwrap_or_else(|| SandboxReport {
            sandbox_id: id,
            generation: 1,
            phase: SandboxPhase::Gone.into(),
            ..Default::default()
        });
        Response::ok(DeleteSandboxResponse { report: report.into(), ..Default::default() })
    }

    async fn pause_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, PauseSandboxRequest>,
    ) -> ServiceResult<PauseSandboxResponse> {
        let report = pause::pause(self.0.clone(), request.to_owned_message()).await?;
        Response::ok(PauseSandboxResponse { report: report.into(), ..Default::default() })
    }

    async fn resume_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ResumeSandboxRequest>,
    ) -> ServiceResult<ResumeSandboxResponse> {
        let report = pause::resume(self.0.clone(), request.to_owned_message()).await?;
        Response::ok(ResumeSandboxResponse { report: report.into(), ..Default::default() })
    }

    async fn snapshot_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SnapshotSandboxRequest>,
    ) -> ServiceResult<SnapshotSandboxResponse> {
        Response::ok(capture::snapshot(self.0.clone(), request.to_owned_message()).await?)
    }

    async fn delete_snapshot(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, DeleteSnapshotRequest>,
    ) -> ServiceResult<DeleteSnapshotResponse> {
        let id = request.to_owned_message().snapshot_id;
        let behaviour = self.0.called("discard", &id);
        tokio::time::sleep(behaviour.delay).await;
        if let Some(code) = behaviour.refuse_discard {
            return Err(ConnectError::new(code, "refused on purpose"));
        }
        self.0.state.lock().expect("no panic while held").snapshots.remove(&id);
        Response::ok(DeleteSnapshotResponse::default())
    }

    async fn fork_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ForkSandboxRequest>,
    ) -> ServiceResult<ForkSandboxResponse> {
        Response::ok(capture::fork(self.0.clone(), request.to_owned_message()).await?)
    }

    async fn list_sandboxes(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, ListSandboxesRequest>,
    ) -> ServiceResult<ListSandboxesResponse> {
        let ask = request.to_owned_message();
        let mut news = self.0.revision.subscribe();
        if ask.since_revision > 0 {
            let wait = Duration::from_millis(u64::from(ask.wait_ms.min(30_000)));
            let _ = tokio::time::timeout(wait, news.wait_for(|revision| *revision > ask.since_revision)).await;
        }
        tokio::time::sleep(self.0.behaviour().delay).await;
        let state = self.0.state.lock().expect("no panic while held");
        Response::ok(ListSandboxesResponse {
            revision: state.revision.max(1),
            sandboxes: state.sandboxes.values().map(|sim| sim.report.clone()).collect(),
            ..Default::default()
        })
    }

    async fn ping_sandbox(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, PingSandboxRequest>,
    ) -> ServiceResult<PingSandboxResponse> {
        let id = request.to_owned_message().sandbox_id;
        tokio::time::sleep(self.0.behaviour().delay).await;
        let state = self.0.state.lock().expect("no panic while held");
        match state.sandboxes.get(&id).and_then(|sim| sim.report.phase.as_known()) {
            None | Some(SandboxPhase::Gone) => Err(ConnectError::new(ErrorCode::NotFound, "no such sandbox")),
            Some(SandboxPhase::Running) => Response::ok(PingSandboxResponse::default()),
            Some(_) => Err(ConnectError::new(ErrorCode::FailedPrecondition, "not running")),
        }
    }

    async fn get_console(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetConsoleRequest>,
    ) -> ServiceResult<GetConsoleResponse> {
        let id = request.sandbox_id.to_owned();
        if self.0.state.lock().expect("no panic while held").sandboxes.contains_key(&id) {
            let output = format!("the console of {id}\r\n\u{1b}[1mready\u{1b}[0m\r\n").into_bytes();
            return Response::ok(GetConsoleResponse { output, ..Default::default() });
        }
        Err(ConnectError::new(ErrorCode::NotFound, "no such sandbox"))
    }

    async fn get_metrics(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetMetricsRequest>,
    ) -> ServiceResult<GetMetricsResponse> {
        let asked = request.to_owned_message();
        let behaviour = self.0.called("metrics", &asked.sandbox_id);
        tokio::time::sleep(behaviour.delay).await;
        let known = {
            let state = self.0.state.lock().expect("no panic while held");
            state.sandboxes.get(&asked.sandbox_id).and_then(|sim| sim.report.phase.as_known())
        };
        if known.is_none_or(|phase| matches!(phase, SandboxPhase::Gone | SandboxPhase::Failed)) {
            return Err(ConnectError::new(ErrorCode::NotFound, "no such sandbox on this host"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
        let mut points = behaviour.points;
        points.retain(|point| point.at_unix >= now - i64::from(asked.span_sec));
        Response::ok(GetMetricsResponse { points, disk_bytes: behaviour.disk_bytes, ..Default::default() })
    }
}

async fn create(inner: Arc<Inner>, wish: CreateSandboxRequest) -> Result<SandboxReport, ConnectError> {
    let behaviour = inner.behaviour();
    tokio::time::sleep(behaviour.delay).await;
    let report = {
        let mut state = inner.state.lock().expect("no panic while held");
        *state.creates.entry(wish.sandbox_id.clone()).or_default() += 1;
        if let Some(code) = behaviour.refuse_create {
            return Err(ConnectError::new(code, "refused on purpose"));
        }
        if state.tombstones.contains(&wish.sandbox_id) {
            return Err(ConnectError::new(ErrorCode::FailedPrecondition, "this sandbox was deleted"));
        }
        if let Some(sim) = state.sandboxes.get(&wish.sandbox_id) {
            return Ok(sim.report.clone());
        }
        let home = match state.snapshots.get(&wish.snapshot_id) {
            None if !wish.snapshot_id.is_empty() => {
                return Err(ConnectError::new(ErrorCode::NotFound, "there is no such snapshot here"));
            }
            snapshot => snapshot.and_then(|snapshot| snapshot.home.clone()),
        };
        let sim = Sim::new(wish.clone(), home);
        let report = sim.report.clone();
        state.sandboxes.insert(wish.sandbox_id.clone(), sim);
        state.revision += 1;
        inner.revision.send_replace(state.revision);
        report
    };
    // Read after the sandbox stands: one that is released meanwhile must not be held for ever.
    if !inner.behaviour().hold_starts {
        tokio::spawn(boot(inner.clone(), wish.sandbox_id));
    }
    Ok(report)
}
