//! Files in a sandbox. Bytes stream through; nothing is kept.

use bytes::Bytes;
use connectrpc::ErrorCode;
use futures::Stream;
use http::Response;
use hyper::body::{Body, Incoming};
use wrenn_contract::proto::filesystem::EntryInfo;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{FILE_READ_BYTES_MAX, LIST_ENTRIES_MAX};
use wrenn_domain::names::GuestPath;

use super::{Actor, ServiceError, guest_error, sandboxes};
use crate::context::Context;
use crate::fleet::FleetError;

/// How much a read may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSize {
    /// At most [`FILE_READ_BYTES_MAX`].
    Bounded,
    /// Whatever the file has.
    Any,
}

/// Opens a file for reading.
pub async fn read(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
    size: ReadSize,
) -> Result<Response<Incoming>, ServiceError> {
    let guest = sandboxes::guest(ctx, actor, id).await?;
    let response = guest.read_file(path).await.map_err(guest_error)?;
    let bytes = response.body().size_hint().upper();
    if size == ReadSize::Bounded && bytes.is_none_or(|bytes| bytes > FILE_READ_BYTES_MAX) {
        return Err(Failure::new(
            FailureKind::TooLarge,
            format!("the file is larger than {FILE_READ_BYTES_MAX} bytes; use files/stream/read"),
        )
        .into());
    }
    Ok(response)
}

/// Writes a file from a stream. When the stream fails, the old file stays.
pub async fn write<S, E>(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
    bytes: S,
) -> Result<(), ServiceError>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let guest = sandboxes::guest(ctx, actor, id).await?;
    guest.write_file(path, bytes).await.map_err(guest_error)?;
    ctx.touches.sandbox(id);
    Ok(())
}

/// Entries below a directory, `depth` levels deep.
pub async fn list(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
    depth: u32,
) -> Result<Vec<EntryInfo>, ServiceError> {
    let guest = sandboxes::guest(ctx, actor, id).await?;
    let too_many = || {
        Failure::new(FailureKind::TooLarge, format!("more than {LIST_ENTRIES_MAX} entries; list with a smaller depth"))
    };
    let entries = guest.list_dir(path, depth).await.map_err(|error| match error {
        FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => too_many().into(),
        other => guest_error(other),
    })?;
    if entries.len() > LIST_ENTRIES_MAX {
        return Err(too_many().into());
    }
    Ok(entries)
}

/// Makes a directory and its parents.
pub async fn make_dir(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
) -> Result<EntryInfo, ServiceError> {
    let guest = sandboxes::guest(ctx, actor, id).await?;
    guest.make_dir(path).await.map_err(guest_error)
}

/// Removes recursively.
pub async fn remove(ctx: &Context, actor: &Actor, id: SandboxId, path: &GuestPath) -> Result<(), ServiceError> {
    let guest = sandboxes::guest(ctx, actor, id).await?;
    guest.remove(path).await.map_err(guest_error)
}
