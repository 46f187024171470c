//! `/files`: whole files over plain HTTP, streamed both ways.
//!
//! `GET` answers ranges, conditions and gzip; `PUT` takes one file as the body, `POST` one or several as multipart.
//! Nothing is ever whole in memory: a transfer holds a few chunks, and the number of transfers is bounded.
//!
//! Must never: let half an upload be seen under its name, or wait for a pipe or device.

mod chunks;
mod conditions;
mod download;
mod encodings;
mod incoming;
mod kinds;
mod multipart;
mod upload;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use wrenn_contract::guest::WrittenFile;
use wrenn_domain::limits::FILE_PLACE_WAIT_MAX;

use crate::caller;
use crate::disk::{Attributes, DiskError};
use crate::http::Reply;
use crate::state::Envd;
use incoming::Incoming;

/// Query of every method. What else E2B clients send (signatures) is not looked at: the token decides.
#[derive(Debug, Default, Deserialize)]
struct FilesQuery {
    path: Option<String>,
    username: Option<String>,
    /// Permission bits in octal; those of the file that was there when absent, else 0644.
    mode: Option<String>,
    /// Time of the last change, Unix milliseconds; now when absent.
    modified_ms: Option<u64>,
}

impl FilesQuery {
    fn read(uri: &Uri) -> Result<Self, Reply> {
        Query::try_from_uri(uri)
            .map(|Query(query)| query)
            .map_err(|error| Reply::bad_request(format!("the query cannot be read: {error}")))
    }

    fn attributes(&self) -> Result<Attributes, Reply> {
        let modified = match self.modified_ms {
            None => None,
            Some(ms) => Some(
                SystemTime::UNIX_EPOCH
                    .checked_add(Duration::from_millis(ms))
                    .ok_or_else(|| Reply::bad_request("modified_ms is too large"))?,
            ),
        };
        let mode = self.mode.as_deref().map(|text| match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && !text.starts_with('+') => Ok(mode),
            _ => Err(Reply::bad_request("mode is permission bits in octal, 0 to 777")),
        });
        Ok(Attributes { mode: mode.transpose()?, modified })
    }

    fn path(self) -> Result<String, Reply> {
        self.path.ok_or_else(|| Reply::bad_request("path is required"))
    }
}

/// `GET /files?path=`.
///
/// # Errors
/// The request is malformed, or the file cannot be read.
pub async fn read(State(envd): State<Arc<Envd>>, uri: Uri, headers: HeaderMap) -> Result<Response, Reply> {
    let query = FilesQuery::read(&uri)?;
    let asker = caller::asker(&headers, query.username.as_deref(), &envd.identity)?;
    let path = query.path()?;
    let request = download::ReadRequest::read(&headers)?;
    let permit = transfer(&envd).await?;
    Ok(download::answer(asker, path, request, permit).await?)
}

/// `PUT /files?path=`: the body is the file.
///
/// # Errors
/// The request is malformed, or the file cannot be written.
pub async fn write(
    State(envd): State<Arc<Envd>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<WrittenFile>>, Reply> {
    receive(&envd, &uri, &headers, body, Form::Raw).await
}

/// `POST /files`: multipart with parts named `file`; with any other content type the same as `PUT`.
///
/// # Errors
/// The request is malformed, or a file cannot be written.
pub async fn write_parts(
    State(envd): State<Arc<Envd>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<WrittenFile>>, Reply> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let form = match multer::parse_boundary(kind) {
        Ok(boundary) => Form::Parts { boundary },
        Err(multer::Error::NoBoundary) => return Err(Reply::bad_request("the multipart body names no boundary")),
        Err(_) => Form::Raw,
    };
    receive(&envd, &uri, &headers, body, form).await
}

enum Form {
    Raw,
    Parts { boundary: String },
}

async fn receive(
    envd: &Envd,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
    form: Form,
) -> Result<Json<Vec<WrittenFile>>, Reply> {
    let query = FilesQuery::read(uri)?;
    let asker = caller::asker(headers, query.username.as_deref(), &envd.identity)?;
    let attributes = query.attributes()?;
    let mut incoming = Incoming::new(headers, body)?;
    let _permit = transfer(envd).await?;
    let written = match form {
        Form::Raw => upload::raw(asker, query.path()?, attributes, &mut incoming).await?,
        Form::Parts { boundary } => multipart::parts(asker, query.path, attributes, boundary, &mut incoming).await?,
    };
    Ok(Json(written))
}

/// A place among the transfers under way.
async fn transfer(envd: &Envd) -> Result<OwnedSemaphorePermit, DiskError> {
    let permit = Arc::clone(&envd.disk.transfers).acquire_owned();
    match tokio::time::timeout(FILE_PLACE_WAIT_MAX, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(DiskError::Busy),
    }
}
