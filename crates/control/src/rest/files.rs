//! `/v1/capsules/{id}/files/*` but for uploads.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use wrenn_contract::proto::filesystem::{EntryInfo, FileType};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::files::{FileEntry, FileKind, FileList, FilePath, ListFiles, MadeDir};
use wrenn_domain::failure::Failure;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::LIST_DEPTH_MAX;
use wrenn_domain::names::GuestPath;

use super::ApiError;
use super::extract::{Caller, CapsuleId, JsonBody};
use crate::context::Context;
use crate::service::files::{self, ReadSize};

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
    JsonBody(body): JsonBody<FilePath>,
) -> Result<Response, ApiError> {
    Ok(download(files::read(&ctx, &actor, id, &body.path.parse()?, ReadSize::Bounded).await?))
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
    JsonBody(body): JsonBody<FilePath>,
) -> Result<Response, ApiError> {
    Ok(download(files::read(&ctx, &actor, id, &body.path.parse()?, ReadSize::Any).await?))
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
) -> Result<Json<FileList>, ApiError> {
    let (path, depth) = (body.path.parse::<GuestPath>()?, depth(body.depth)?);
    let entries = files::list(&ctx, &actor, id, &path, depth).await?;
    Ok(Json(FileList { entries: entries.into_iter().map(entry).collect() }))
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

async fn remove_path(
    ctx: &Context,
    actor: &crate::service::Actor,
    id: SandboxId,
    path: GuestPath,
) -> Result<StatusCode, ApiError> {
    files::remove(ctx, actor, id, &path).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn download(from: http::Response<Incoming>) -> Response {
    let length = from.headers().get(header::CONTENT_LENGTH).cloned();
    let mut response = Response::new(Body::new(from.into_body().map_err(axum::Error::new)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
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
