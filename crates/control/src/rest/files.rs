//! `/v1/capsules/{id}/files/*` but for uploads.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use wrenn_contract::proto::filesystem::{EntryInfo, FileType};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::files::{FileEntry, FileKind, FileList, FilePath, ListFiles, MadeDir};
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::LIST_DEPTH_MAX;
use wrenn_domain::names::GuestPath;

use super::extract::{Caller, CapsuleId, ConnectionCut, JsonBody};
use crate::actor::Actor;
use crate::answer::ApiError;
use crate::connection::Cut;
use crate::context::Context;
use crate::revocable_body::RevocableBody;
use crate::service::files::{self, ReadSize};
use crate::state::permits::AnswerBytes;

/// Read a file
///
/// At most 256 MiB; larger ones over files/stream/read.
#[utoipa::path(post, path = "/v1/capsules/{id}/files/read", tag = "files", request_body = FilePath, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn read(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    ConnectionCut(cut): ConnectionCut,
    headers: HeaderMap,
    JsonBody(body): JsonBody<FilePath>,
) -> Result<Response, ApiError> {
    Ok(download(
        &ctx,
        &actor,
        cut,
        files::read(&ctx, &actor, id, &body.path.parse()?, ReadSize::Bounded, headers.get(header::RANGE)).await?,
    ))
}

/// Read a file of any size
///
/// Streamed. An error after the first byte cuts the body, so compare its length with Content-Length.
#[utoipa::path(post, path = "/v1/capsules/{id}/files/stream/read", tag = "files", request_body = FilePath, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn stream_read(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    ConnectionCut(cut): ConnectionCut,
    headers: HeaderMap,
    JsonBody(body): JsonBody<FilePath>,
) -> Result<Response, ApiError> {
    Ok(download(
        &ctx,
        &actor,
        cut,
        files::read(&ctx, &actor, id, &body.path.parse()?, ReadSize::Any, headers.get(header::RANGE)).await?,
    ))
}

/// List a directory
#[utoipa::path(post, path = "/v1/capsules/{id}/files/list", tag = "files", request_body = ListFiles, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = FileList), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    JsonBody(body): JsonBody<ListFiles>,
) -> Result<Response, ApiError> {
    let (path, depth) = (body.path.parse::<GuestPath>()?, depth(body.depth)?);
    let (entries, bytes) = files::list(&ctx, &actor, id, &path, depth).await?;
    let list = Json(FileList { entries: entries.into_iter().map(entry).collect() });
    Ok((Extension(AnswerBytes::new(bytes)), list).into_response())
}

/// Make a directory
///
/// And its parents. 409 already_exists when it is there.
#[utoipa::path(post, path = "/v1/capsules/{id}/files/mkdir", tag = "files", request_body = FilePath, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = MadeDir), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn make_dir(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    JsonBody(body): JsonBody<FilePath>,
) -> Result<Json<MadeDir>, ApiError> {
    let made = files::make_dir(&ctx, &actor, id, &body.path.parse()?).await?;
    Ok(Json(MadeDir { entry: entry(made) }))
}

/// Remove a file or directory
///
/// Recursively.
#[utoipa::path(post, path = "/v1/capsules/{id}/files/remove", tag = "files", request_body = FilePath, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn remove(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    JsonBody(body): JsonBody<FilePath>,
) -> Result<StatusCode, ApiError> {
    remove_path(&ctx, &actor, id, body.path.parse()?).await
}

async fn remove_path(ctx: &Context, actor: &Actor, id: SandboxId, path: GuestPath) -> Result<StatusCode, ApiError> {
    files::remove(ctx, actor, id, &path).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Headers of the guest's answer that say what part of which file it is.
const OF_THE_FILE: [HeaderName; 5] =
    [header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ACCEPT_RANGES, header::ETAG, header::LAST_MODIFIED];

fn download(ctx: &Arc<Context>, actor: &Arc<Actor>, cut: Option<Cut>, from: http::Response<Incoming>) -> Response {
    let (parts, body) = from.into_parts();
    let mut response = Response::new(Body::new(RevocableBody::new(ctx, actor.clone(), cut, body)));
    if parts.status == StatusCode::PARTIAL_CONTENT {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    for name in OF_THE_FILE {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn depth(depth: Option<i64>) -> Result<u32, Failure> {
    match depth.map(u32::try_from) {
        None => Ok(1),
        Some(Ok(depth)) if (1..=LIST_DEPTH_MAX).contains(&depth) => Ok(depth),
        Some(_) => Err(Failure::invalid(format!("depth must be between 1 and {LIST_DEPTH_MAX}"))),
    }
}

fn entry(info: EntryInfo) -> FileEntry {
    FileEntry {
        kind: match info.r#type.as_known() {
            Some(FileType::FILE_TYPE_DIRECTORY) => FileKind::Directory,
            Some(FileType::FILE_TYPE_SYMLINK) => FileKind::Symlink,
            _ => FileKind::File,
        },
        name: info.name,
        path: info.path,
        size: info.size,
        mode: info.mode,
        permissions: info.permissions,
        owner: info.owner,
        group: info.group,
        modified_at: info.modified_time.into_option().map_or(0, |t| t.seconds),
        symlink_target: info.symlink_target,
    }
}
