//! The RPC service: parse, do it on a blocking thread as the acting user, answer.

use std::sync::Arc;

use connectrpc::{
    CompressionPolicy, ConnectError, ConnectRpcService, ErrorCode, Limits, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{SFlag, fstat};
use tokio::sync::OwnedSemaphorePermit;
use wrenn_contract::proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, EntryInfo, Filesystem, FilesystemExt, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse, MoveRequest,
    MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest, RemoveWatcherResponse, StatRequest,
    StatResponse, WatchDirRequest, WatchDirResponse,
};
use wrenn_domain::failure::FailureKind;
use wrenn_domain::limits::{FILE_PLACE_WAIT_MAX, GUEST_PATH_BYTES_MAX};
use wrenn_linux::users::Names;

use super::asking::Caller;
use super::{entry, list, movement, remove, watch};
use crate::caller;
use crate::disk::{Asker, DiskError, EntryPath, Parents, begin, open, shown};
use crate::state::Envd;

/// Bytes of a request: two paths, each byte of which JSON may write as six, and what is around them.
const REQUEST_BYTES_MAX: usize = 2 * 6 * GUEST_PATH_BYTES_MAX + 4096;

/// The service, ready to be mounted. Answers are not packed: they travel inside one machine, and packing a long
/// listing would take the guest's time for nothing.
pub fn router(envd: Arc<Envd>) -> ConnectRpcService {
    let limits =
        Limits::default().with_max_request_body_size(REQUEST_BYTES_MAX).with_max_message_size(REQUEST_BYTES_MAX);
    Arc::new(Service(envd))
        .register(connectrpc::Router::new())
        .into_axum_service()
        .with_limits(limits)
        .with_compression_policy(CompressionPolicy::disabled())
}

struct Service(Arc<Envd>);

impl Service {
    fn asker(&self, ctx: &RequestContext) -> Result<Asker, ConnectError> {
        caller::asker(ctx.headers(), None, &self.0.identity).map_err(refusal)
    }

    /// A place among the long walks.
    async fn walk(&self) -> Result<OwnedSemaphorePermit, ConnectError> {
        let permit = Arc::clone(&self.0.disk.walks).acquire_owned();
        match tokio::time::timeout(FILE_PLACE_WAIT_MAX, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(refusal(DiskError::Busy)),
        }
    }
}

#[allow(refining_impl_trait)]
impl Filesystem for Service {
    async fn stat(&self, ctx: RequestContext, request: ServiceRequest<'_, StatRequest>) -> ServiceResult<StatResponse> {
        let path = request.path.to_owned();
        let entry = begin(self.asker(&ctx)?, move |actor| describe(&actor.path(&path)?)).await.map_err(refusal)?;
        Response::ok(StatResponse { entry: entry.into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let path = request.path.to_owned();
        let made = begin(self.asker(&ctx)?, move |actor| make_dir(&actor.path(&path)?)).await.map_err(refusal)?;
        Response::ok(MakeDirResponse { entry: made.into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let (from, to) = (request.source.to_owned(), request.destination.to_owned());
        let _permit = self.walk().await?;
        let (_caller, asking) = Caller::new();
        let moved = begin(self.asker(&ctx)?, move |actor| {
            let (from, to) = (actor.path(&from)?, actor.path(&to)?);
            movement::rename(actor, &from, &to, &asking)?;
            describe(&to)
        });
        Response::ok(MoveResponse { entry: moved.await.map_err(refusal)?.into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let (path, depth) = (request.path.to_owned(), request.depth);
        let _permit = self.walk().await?;
        let (_caller, asking) = Caller::new();
        let entries = begin(self.asker(&ctx)?, move |actor| list::list(&actor.path(&path)?, depth, &asking));
        Response::ok(ListDirResponse { entries: entries.await.map_err(refusal)?, ..Default::default() })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let path = request.path.to_owned();
        let _permit = self.walk().await?;
        let (_caller, asking) = Caller::new();
        let removed = begin(self.asker(&ctx)?, move |actor| remove::remove(&actor.path(&path)?, &asking));
        removed.await.map_err(refusal)?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let (path, recursive) = (request.path.to_owned(), request.recursive);
        let permit = self.walk().await?;
        let watch = self.0.watchers.watch(self.asker(&ctx)?, path, recursive).await.map_err(refusal)?;
        drop(permit);
        Response::ok(watch::stream(watch, watch::keepalive_every(ctx.headers())))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let (path, recursive) = (request.path.to_owned(), request.recursive);
        let _permit = self.walk().await?;
        let watcher_id = self.0.watchers.create(self.asker(&ctx)?, path, recursive).await.map_err(refusal)?;
        Response::ok(CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self.0.watchers.events(request.watcher_id).ok_or_else(no_watcher)?;
        let events = events.into_iter().map(watch::Event::into_proto).collect();
        Response::ok(GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        if !self.0.watchers.remove(request.watcher_id) {
            return Err(no_watcher());
        }
        Response::ok(RemoveWatcherResponse::default())
    }
}

fn describe(path: &std::path::Path) -> Result<EntryInfo, DiskError> {
    entry::describe(&AT_FDCWD, path.as_os_str(), path, &Names::load()).map_err(DiskError::io("look at", path))
}

fn make_dir(path: &std::path::Path) -> Result<EntryInfo, DiskError> {
    let text = || shown(path);
    // What has no name of its own (`/`, `..`) is there if it is anything.
    if let Some(_name) = path.file_name() {
        match EntryPath::find(path, Parents::Make)?.make_dir() {
            Ok(()) => return describe(path),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(DiskError::io("make directory", path)(errno)),
        }
    }
    match open(path, OFlag::O_PATH).and_then(fstat) {
        Ok(stat) if entry::kind(&stat) == SFlag::S_IFDIR => Err(DiskError::Exists(text())),
        // A file, or a link to nothing.
        Ok(_) | Err(Errno::ENOENT) => Err(DiskError::NotDirectory(text())),
        Err(errno) => Err(DiskError::io("look at", path)(errno)),
    }
}

fn no_watcher() -> ConnectError {
    ConnectError::new(ErrorCode::NotFound, "there is no such watcher; one that is not asked for long is dropped")
}

/// The only place where a failure becomes an RPC error.
fn refusal(error: DiskError) -> ConnectError {
    let code = match error.kind() {
        FailureKind::NotFound => ErrorCode::NotFound,
        FailureKind::Invalid => ErrorCode::InvalidArgument,
        FailureKind::Forbidden => ErrorCode::PermissionDenied,
        FailureKind::AlreadyExists => ErrorCode::AlreadyExists,
        FailureKind::Conflict => ErrorCode::FailedPrecondition,
        FailureKind::TooLarge | FailureKind::DiskFull => ErrorCode::ResourceExhausted,
        FailureKind::Unavailable => ErrorCode::Unavailable,
        // None of the others is a file's.
        _ => {
            tracing::error!(error = error.message(), "a file call failed");
            ErrorCode::Internal
        }
    };
    ConnectError::new(code, error.message())
}
