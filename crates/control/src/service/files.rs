//! Files in a sandbox. Bytes stream through; nothing is kept.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::ErrorCode;
use futures::Stream;
use http::{HeaderValue, Response};
use hyper::body::{Body, Incoming};
use wrenn_contract::proto::filesystem::EntryInfo;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{FILE_READ_BYTES_MAX, LIST_ENTRIES_MAX, LIST_TEXT_BYTES_MAX};
use wrenn_domain::names::GuestPath;

use super::{credential_watch, lookup};
use crate::actor::{Actor, Credential};
use crate::context::Context;
use crate::error::{ServiceError, guest_error};
use crate::fleet::FleetError;
use crate::fleet::guest::Attributes;
use crate::state::pool::Permit;

/// Wait for the bytes of a list when others of the same credential are under way.
const LIST_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes an entry takes beside its path.
const ENTRY_BYTES: usize = 512;

/// How much a read may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSize {
    /// At most [`FILE_READ_BYTES_MAX`].
    Bounded,
    /// Whatever the file has.
    Any,
}

/// Opens a file for reading, or the range of it that a Range header names.
///
/// # Errors
/// When the sandbox does not run, the guest does not give the file, or it is larger than `size` allows.
pub async fn read(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
    size: ReadSize,
    range: Option<&HeaderValue>,
) -> Result<Response<Incoming>, ServiceError> {
    let guest = lookup::guest(ctx, actor, id).await?;
    let response = guest.read_file(path, range).await.map_err(|error| match error {
        FleetError::Answered { code: ErrorCode::OutOfRange, .. } => {
            Failure::new(FailureKind::OutOfRange, "the range lies outside of the file").into()
        }
        other => guest_error(other),
    })?;
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
///
/// # Errors
/// When the sandbox does not run, the guest does not take the file, or the credential ends.
pub async fn write<S, E>(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
    attributes: &Attributes,
    bytes: S,
) -> Result<(), ServiceError>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let guest = lookup::guest(ctx, actor, id).await?;
    let write = async { guest.write_file(path, attributes, bytes).await.map_err(guest_error) };
    if let Err(error) = credential_watch::while_held(ctx, actor, write).await {
        return Err(lookup::explain(ctx, actor, id, error).await);
    }
    ctx.touches.sandbox(id);
    Ok(())
}

/// Entries below a directory, `depth` levels deep, with the bytes that are held for them.
///
/// # Errors
/// When the sandbox does not run, or the guest does not do it.
pub async fn list(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
    depth: u32,
) -> Result<(Vec<EntryInfo>, Permit<Credential>), ServiceError> {
    // As much as a list may be: how much it is, only the guest knows.
    let credential = actor.credential.clone();
    let bytes = ctx.permits.answer_bytes.wait_many(credential, LIST_TEXT_BYTES_MAX, LIST_WAIT_MAX).await;
    let mut bytes = bytes.map_err(|_| ServiceError::Busy("too many lists at once; try again".to_owned()))?;
    let guest = lookup::guest(ctx, actor, id).await?;
    let too_many = || {
        Failure::new(FailureKind::TooLarge, format!("more than {LIST_ENTRIES_MAX} entries; list with a smaller depth"))
    };
    let list = async {
        guest.list_dir(path, depth).await.map_err(|error| match error {
            FleetError::Answered { code: ErrorCode::ResourceExhausted, .. } => too_many().into(),
            other => guest_error(other),
        })
    };
    let entries = credential_watch::while_held(ctx, actor, list).await?;
    if entries.len() > LIST_ENTRIES_MAX {
        return Err(too_many().into());
    }
    let text: usize = entries.iter().map(|entry| ENTRY_BYTES + 2 * entry.path.len()).sum();
    // Less than before is always free; more than was held cannot be, by the guest agent's own bound.
    let _ = bytes.resize(text.min(LIST_TEXT_BYTES_MAX));
    Ok((entries, bytes))
}

/// Makes a directory and its parents.
///
/// # Errors
/// When the sandbox does not run, or the guest does not do it.
pub async fn make_dir(
    ctx: &Context,
    actor: &Actor,
    id: SandboxId,
    path: &GuestPath,
) -> Result<EntryInfo, ServiceError> {
    let guest = lookup::guest(ctx, actor, id).await?;
    guest.make_dir(path).await.map_err(guest_error)
}

/// Removes recursively.
///
/// # Errors
/// When the sandbox does not run, or the guest does not do it.
pub async fn remove(ctx: &Context, actor: &Actor, id: SandboxId, path: &GuestPath) -> Result<(), ServiceError> {
    let guest = lookup::guest(ctx, actor, id).await?;
    credential_watch::while_held(ctx, actor, async { guest.remove(path).await.map_err(guest_error) }).await
}
