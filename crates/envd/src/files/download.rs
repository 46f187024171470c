//! `GET /files`: from a path to a response.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    LAST_MODIFIED, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{
    CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC, SECURITYFS_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, fstatfs,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::{ReaderStream, StreamReader};

use super::chunks::{self, Left};
use super::conditions::{Conditions, Plan, Version};
use super::encodings::Accepted;
use super::kinds::content_type;
use crate::disk::{Asker, DiskError, begin, open, reopen, shown};
use crate::http::Reply;

/// Bytes of gzip sent at once.
const GZIP_CHUNK: usize = 64 * 1024;
/// File systems whose files are made up as they are read, and whose sizes mean nothing.
const MADE_UP: [FsType; 6] =
    [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC];

/// Conditions, range and encodings of a read, besides the path.
#[derive(Debug)]
pub struct ReadRequest {
    conditions: Conditions,
    gzip: bool,
}

impl ReadRequest {
    /// Reads the headers.
    ///
    /// # Errors
    /// 406 when the client takes no encoding we have.
    pub fn read(headers: &HeaderMap) -> Result<Self, Reply> {
        let (conditions, accepted) = (Conditions::read(headers), Accepted::read(headers));
        let gzip = accepted.gzip && !conditions.want_identity();
        if !gzip && !accepted.identity {
            return Err(Reply::new(
                StatusCode::NOT_ACCEPTABLE,
                "files are sent as identity or gzip, parts as identity",
            ));
        }
        Ok(Self { conditions, gzip })
    }
}

/// A file that may be read, with its beginning read already: for a small one that was all.
struct Opened {
    file: File,
    version: Version,
    /// Bytes it has, when it knows.
    size: Option<u64>,
    plan: Plan,
    first: Bytes,
    left: Option<Left>,
    path: PathBuf,
}

/// Answers with the file, or with why not.
///
/// # Errors
/// It is not there, is no regular file, or may not be read.
pub async fn answer(
    asker: Asker,
    path: String,
    request: ReadRequest,
    permit: OwnedSemaphorePermit,
) -> Result<Response<Body>, DiskError> {
    let ReadRequest { conditions, gzip } = request;
    let opened = begin(asker, move |actor| open_file(actor.path(&path)?, &conditions)).await?;
    Ok(respond(opened, gzip, permit))
}

fn open_file(path: PathBuf, conditions: &Conditions) -> Result<Opened, DiskError> {
    // Only looked at first: opening a pipe waits for its other end, and opening a device may set it off.
    let found = open(&path, OFlag::O_PATH).map_err(DiskError::io("open", &path))?;
    let stat = fstat(&found).map_err(DiskError::io("look at", &path))?;
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Err(DiskError::IsDirectory(shown(&path))),
        _ => return Err(DiskError::not_regular(&path, stat.st_mode)),
    }
    let mut file = reopen(&found, OFlag::O_RDONLY | OFlag::O_NOCTTY).map_err(DiskError::io("open", &path))?;
    let version = Version::new(stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    let mut size = u64::try_from(stat.st_size).ok().filter(|size| *size > 0 && !is_made_up(&found));
    let plan = conditions.plan(&version, size);
    let wanted = match plan {
        Plan::Whole => Some(size.map_or(Left::ToEnd, Left::Bytes)),
        Plan::Part { first, last } => {
            file.seek(SeekFrom::Start(first)).map_err(DiskError::std("read", &path))?;
            Some(Left::Bytes(last - first + 1))
        }
        Plan::NotModified | Plan::Unsatisfiable => None,
    };
    let (first, left) = match wanted {
        Some(wanted) => read_first(&file, &path, wanted)?,
        None => (Bytes::new(), None),
    };
    if size.is_none() && left.is_none() {
        size = Some(first.len() as u64);
    }
    // An empty file's size is known only now, and a part of nothing cannot be had.
    let plan = if size == Some(0) { conditions.plan(&version, size) } else { plan };
    Ok(Opened { file, version, size, plan, first, left, path })
}

fn read_first(file: &File, path: &Path, wanted: Left) -> Result<(Bytes, Option<Left>), DiskError> {
    let first = chunks::read_chunk(file, wanted).map_err(DiskError::std("read", path))?;
    let left = wanted.after(&first).map_err(DiskError::std("read", path))?;
    Ok((first, left))
}

fn is_made_up(fd: &impl AsFd) -> bool {
    fstatfs(fd).is_ok_and(|fs| MADE_UP.contains(&fs.filesystem_type()))
}

fn respond(opened: Opened, gzip: bool, permit: OwnedSemaphorePermit) -> Response<Body> {
    let Opened { file, version, size, plan, first, left, path } = opened;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    let etag = if gzip { version.gzipped() } else { version.etag.clone() };
    set(headers, ETAG, &etag);
    set(headers, LAST_MODIFIED, &httpdate::fmt_http_date(version.modified));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let (status, length) = match plan {
        Plan::NotModified => (StatusCode::NOT_MODIFIED, None),
        Plan::Unsatisfiable => {
            set(headers, CONTENT_RANGE, &format!("bytes */{}", size.unwrap_or_default()));
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(0))
        }
        Plan::Part { first, last } => {
            set(headers, CONTENT_RANGE, &format!("bytes {first}-{last}/{}", size.unwrap_or_default()));
            (StatusCode::PARTIAL_CONTENT, Some(last - first + 1))
        }
        Plan::Whole => (StatusCode::OK, size),
    };
    let has_file = matches!(plan, Plan::Whole | Plan::Part { .. });
    if has_file {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(&path)));
        // What a sandbox made is nobody's to guess at.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
    }
    if gzip && has_file {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    } else if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    *response.status_mut() = status;
    if has_file {
        *response.body_mut() = match (left, gzip) {
            (None, false) => Body::from(first),
            (left, false) => Body::from_stream(chunks::stream(file, first, left, permit)),
            (left, true) => gzipped(file, first, left, permit),
        };
    }
    response
}

fn gzipped(file: File, first: Bytes, left: Option<Left>, permit: OwnedSemaphorePermit) -> Body {
    use async_compression::Level;
    use async_compression::tokio::bufread::GzipEncoder;
    // In small pieces, so that packing one is a short turn on the worker.
    let pieces = chunks::stream(file, first, left, permit).flat_map(|chunk| {
        let pieces: Vec<_> = match chunk {
            Ok(chunk) => (0..chunk.len()).step_by(GZIP_CHUNK).map(|at| Ok(piece(&chunk, at))).collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(pieces)
    });
    let packed = GzipEncoder::with_quality(StreamReader::new(Box::pin(pieces)), Level::Fastest);
    Body::from_stream(ReaderStream::with_capacity(packed, GZIP_CHUNK))
}

fn piece(chunk: &Bytes, at: usize) -> Bytes {
    chunk.slice(at..chunk.len().min(at + GZIP_CHUNK))
}

/// Tags, dates and numbers are always fit for a header.
fn set(headers: &mut HeaderMap, name: axum::http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
