//! Uploads: multipart bodies read as a stream and passed on as they come. The part `path` comes before the part
//! `file`; nothing is written otherwise, and a body that breaks off leaves the old file as it was.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context as Poller, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, StatusCode, header};
use multer::{Field, Multipart};
use utoipa::ToSchema;
use wrenn_contract::rest::error::{ErrorBody, ErrorCode};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{FILE_WRITE_BYTES_MAX, GUEST_PATH_BYTES_MAX};
use wrenn_domain::names::GuestPath;

use super::ApiError;
use super::extract::{Caller, CapsuleId};
use crate::context::Context;
use crate::service::{Actor, files};

/// Multipart form of an upload, in this order.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(super) struct Upload {
    path: String,
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Write a file
///
/// At most 100 MiB; larger ones over files/stream/write. Parents are created, the file is replaced in one step.
#[utoipa::path(post, path = "/v1/capsules/{id}/files/write", tag = "files", security(("api_key" = []), ("session" = [])),
    request_body(content = Upload, content_type = "multipart/form-data"),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn write(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    request: Request,
) -> Result<StatusCode, ApiError> {
    upload(&ctx, &actor, id, request, Some(FILE_WRITE_BYTES_MAX)).await
}

/// Write a file of any size
#[utoipa::path(post, path = "/v1/capsules/{id}/files/stream/write", tag = "files", security(("api_key" = []), ("session" = [])),
    request_body(content = Upload, content_type = "multipart/form-data"),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn stream_write(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    request: Request,
) -> Result<StatusCode, ApiError> {
    upload(&ctx, &actor, id, request, None).await
}

async fn upload(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    request: Request,
    bytes_max: Option<u64>,
) -> Result<StatusCode, ApiError> {
    let boundary = boundary(request.headers())?;
    let mut form = Multipart::new(whole(request.into_body()), boundary);
    let path = path_part(&mut form).await?;
    let file = file_part(&mut form).await?;
    let verdict = Arc::new(Verdict::default());
    let bytes = FileBytes { field: file, left: bytes_max, verdict: verdict.clone() };
    let written = files::write(ctx, actor, id, &path, bytes).await;
    // What broke the body is the cause; what the guest then said of it is not.
    match verdict.0.load(Ordering::Acquire) {
        TOO_LARGE => Err(too_large(bytes_max.unwrap_or_default())),
        BROKEN => Err(broken()),
        _ => written.map(|()| StatusCode::NO_CONTENT).map_err(ApiError::from),
    }
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    multer::parse_boundary(kind)
        .map_err(|_| ApiError::invalid("send multipart/form-data with the parts path and file, in this order"))
}

fn whole(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    body.into_data_stream()
}

async fn path_part(form: &mut Multipart<'static>) -> Result<GuestPath, ApiError> {
    let Some(mut part) = form.next_field().await.map_err(|_| broken())? else {
        return Err(ApiError::invalid("the part path is missing"));
    };
    if part.name() != Some("path") {
        return Err(ApiError::invalid("the part path must come first, then the part file; nothing was written"));
    }
    let mut text = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|_| broken())? {
        text.extend_from_slice(&chunk);
        if text.len() > GUEST_PATH_BYTES_MAX {
            return Err(ApiError::invalid(format!("path is longer than {GUEST_PATH_BYTES_MAX} bytes")));
        }
    }
    let text = String::from_utf8(text).map_err(|_| ApiError::invalid("path is not valid UTF-8"))?;
    Ok(text.parse()?)
}

async fn file_part(form: &mut Multipart<'static>) -> Result<Field<'static>, ApiError> {
    match form.next_field().await.map_err(|_| broken())? {
        Some(part) if part.name() == Some("file") => Ok(part),
        Some(_) => Err(ApiError::invalid("after path comes the part file; nothing was written")),
        None => Err(ApiError::invalid("the part file is missing; nothing was written")),
    }
}

fn broken() -> ApiError {
    ApiError::invalid("the multipart body is malformed or broke off; nothing was written")
}

fn too_large(bytes_max: u64) -> ApiError {
    let text = format!("the file is larger than {bytes_max} bytes; use files/stream/write");
    ApiError::new(ErrorCode::PayloadTooLarge, text)
}

const TOO_LARGE: u8 = 1;
const BROKEN: u8 = 2;

/// Why the body failed, if it did.
#[derive(Default)]
struct Verdict(AtomicU8);

/// The bytes of the part `file`, counted.
struct FileBytes {
    field: Field<'static>,
    left: Option<u64>,
    verdict: Arc<Verdict>,
}

#[derive(Debug, thiserror::Error)]
#[error("the upload broke off")]
struct BrokeOff;

impl Stream for FileBytes {
    type Item = Result<Bytes, BrokeOff>;

    fn poll_next(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        let fail = |this: &Self, why| {
            this.verdict.0.store(why, Ordering::Release);
            Poll::Ready(Some(Err(BrokeOff)))
        };
        match Pin::new(&mut self.field).poll_next(poller) {
            Poll::Ready(Some(Ok(chunk))) => {
                if let Some(left) = self.left {
                    let Some(left) = left.checked_sub(chunk.len() as u64) else { return fail(&self, TOO_LARGE) };
                    self.left = Some(left);
                }
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(_))) => fail(&self, BROKEN),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
