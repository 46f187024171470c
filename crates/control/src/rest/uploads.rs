//! Uploads: multipart bodies read as a stream and passed on as they come. The parts `path`, and perhaps `mode` and `modified_ms`, come
//! before the part `file`, which is the last; nothing is written otherwise, and a body that breaks off leaves the old file as it was.

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

use super::extract::{Caller, CapsuleId};
use crate::actor::Actor;
use crate::answer::ApiError;
use crate::context::Context;
use crate::fleet::guest::Attributes;
use crate::service::files;

/// Multipart form of an upload, in this order.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(super) struct Upload {
    path: String,
    /// Permission bits in octal, such as 600; those of the file that was there when absent, else 644.
    #[schema(required = false)]
    mode: String,
    /// Time of the last change, Unix milliseconds; now when absent.
    #[schema(required = false)]
    modified_ms: u64,
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
    let (file, attributes) = file_part(&mut form).await?;
    let verdict = Arc::new(Verdict::default());
    let bytes = FileBytes { field: Some(file), form, left: bytes_max, verdict: verdict.clone() };
    let written = files::write(ctx, actor, id, &path, &attributes, bytes).await;
    // What broke the body is the cause; what the guest then said of it is not.
    match verdict.0.load(Ordering::Acquire) {
        TOO_LARGE => Err(too_large(bytes_max.unwrap_or_default())),
        BROKEN => Err(broken()),
        ANOTHER => Err(ApiError::invalid("the part file is the last, and there is one; nothing was written")),
        _ => written.map(|()| StatusCode::NO_CONTENT).map_err(ApiError::from),
    }
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let text = "send multipart/form-data with the parts path and file, in this order";
    if !kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data") {
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, text));
    }
    multer::parse_boundary(kind).map_err(|_| ApiError::invalid(text))
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
    Ok(text_of(&mut part, "path", GUEST_PATH_BYTES_MAX).await?.parse()?)
}

async fn text_of(part: &mut Field<'static>, name: &str, bytes_max: usize) -> Result<String, ApiError> {
    let mut text = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|_| broken())? {
        text.extend_from_slice(&chunk);
        if text.len() > bytes_max {
            return Err(ApiError::invalid(format!("{name} is longer than {bytes_max} bytes")));
        }
    }
    String::from_utf8(text).map_err(|_| ApiError::invalid(format!("{name} is not valid UTF-8")))
}

/// Reads the small parts before the file, each at most once.
async fn file_part(form: &mut Multipart<'static>) -> Result<(Field<'static>, Attributes), ApiError> {
    let mut attributes = Attributes::default();
    loop {
        let Some(mut part) = form.next_field().await.map_err(|_| broken())? else {
            return Err(ApiError::invalid("the part file is missing; nothing was written"));
        };
        match part.name() {
            Some("file") => return Ok((part, attributes)),
            Some("mode") if attributes.mode.is_none() => {
                attributes.mode = Some(mode(&text_of(&mut part, "mode", NUMBER_BYTES_MAX).await?)?);
            }
            Some("modified_ms") if attributes.modified_ms.is_none() => {
                let text = text_of(&mut part, "modified_ms", NUMBER_BYTES_MAX).await?;
                let number = text.parse().map_err(|_| ApiError::invalid("modified_ms is a number of milliseconds"))?;
                attributes.modified_ms = Some(number);
            }
            _ => {
                return Err(ApiError::invalid(
                    "between path and file come the parts mode and modified_ms, each at most once; nothing was written",
                ));
            }
        }
    }
}

fn mode(text: &str) -> Result<u32, ApiError> {
    let octal = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = octal.then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| ApiError::invalid("mode is permission bits in octal, 0 to 777"))
}

fn broken() -> ApiError {
    ApiError::invalid("the multipart body is malformed or broke off; nothing was written")
}

fn too_large(bytes_max: u64) -> ApiError {
    let text = format!("the file is larger than {bytes_max} bytes; use files/stream/write");
    ApiError::new(ErrorCode::PayloadTooLarge, text)
}

/// Bytes of a part that is a number.
const NUMBER_BYTES_MAX: usize = 20;

const TOO_LARGE: u8 = 1;
const BROKEN: u8 = 2;
const ANOTHER: u8 = 3;

/// Why the body failed, if it did.
#[derive(Default)]
struct Verdict(AtomicU8);

/// The bytes of the part `file`, counted. They end well only when no other part follows.
struct FileBytes {
    field: Option<Field<'static>>,
    form: Multipart<'static>,
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
        let polled = match &mut self.field {
            Some(field) => Pin::new(field).poll_next(poller),
            None => Poll::Ready(None),
        };
        match polled {
            Poll::Ready(Some(Ok(chunk))) => {
                if let Some(left) = self.left {
                    let Some(left) = left.checked_sub(chunk.len() as u64) else { return fail(&self, TOO_LARGE) };
                    self.left = Some(left);
                }
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(_))) => fail(&self, BROKEN),
            Poll::Ready(None) => {
                self.field = None;
                match self.form.poll_next_field(poller) {
                    Poll::Ready(Ok(None)) => Poll::Ready(None),
                    Poll::Ready(Ok(Some(_))) => fail(&self, ANOTHER),
                    Poll::Ready(Err(_)) => fail(&self, BROKEN),
                    Poll::Pending => Poll::Pending,
                }
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
