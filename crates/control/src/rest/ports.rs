//! `GET /v1/capsules/{id}/ports/{port}/tunnel` (WebSocket): raw TCP to a port of a capsule.
//!
//! Binary frames are bytes. The text frame `eof`, either way, says that its sender sends no more; the other direction goes on until
//! it ends too. A slow reader slows the writer: nothing is taken from one side that was not passed to the other.

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::ports::TUNNEL_EOF;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{FRAME_BYTES_MAX, KEEPALIVE_EVERY, PORT_BUFFER_BYTES};

use super::extract::{Caller, CapsuleId, PortText};
use crate::actor::Actor;
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::{credential_watch, lookup, ports};

/// Open a raw connection to a port
///
/// Over a WebSocket: binary frames both ways are the bytes of one TCP connection to that port of the capsule, also if its server
/// listens on loopback only. The text frame `eof` says that its sender sends no more. A paused capsule with auto_resume is resumed.
/// Failures come before the upgrade, as usual errors.
#[utoipa::path(get, path = "/v1/capsules/{id}/ports/{port}/tunnel", tag = "capsules", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters"), ("port" = u16, Path, description = "1 to 65535")),
    responses((status = 101, description = "WebSocket: binary frames, and the text frame eof"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn tunnel(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    PortText(port): PortText,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| ApiError::invalid("this route speaks WebSocket; send an upgrade request"))?;
    let port: Option<u16> = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| ApiError::invalid("the port must be 1 to 65535"))?;
    let (guest, permit) = ports::tunnel(&ctx, &actor, id, port).await?;
    let upgrade = upgrade.max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        carry(ctx, actor, id, socket, guest).await;
        drop(permit);
    }))
}

async fn carry(ctx: Arc<Context>, actor: Arc<Actor>, id: SandboxId, socket: WebSocket, guest: Upgraded) {
    let (mut to_client, from_client) = socket.split();
    let (from_guest, to_guest) = tokio::io::split(TokioIo::new(guest));
    let (code, why) = tokio::select! {
        // In any order: each waits for another party.
        done = both_ways(&ctx, id, (from_client, to_guest), (from_guest, &mut to_client)) => match done {
            Ok(()) => (close_code::NORMAL, String::new()),
            Err(Broken) => (close_code::ERROR, why(&ctx, &actor, id).await),
        },
        () = ctx.stop.cancelled() => (close_code::RESTART, "the server restarts; connect again".to_owned()),
        // A connection must not outlive what it was opened with.
        () = credential_watch::lost(&ctx, &actor) => (close_code::POLICY, credential_watch::ended().message),
    };
    let _ = to_client.send(Message::Close(Some(CloseFrame { code, reason: why.as_str().into() }))).await;
}

/// Why the guest's side broke off, in as many bytes as a close frame takes; nothing when nobody knows.
async fn why(ctx: &Context, actor: &Actor, id: SandboxId) -> String {
    let mut text = lookup::ended_meanwhile(ctx, actor, id).await.map(|failure| failure.message).unwrap_or_default();
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}

/// Bytes of the reason in a close frame (RFC 6455, section 5.5: 125 with the code).
const REASON_BYTES_MAX: usize = 123;

/// One side broke off.
struct Broken;

type FromClient = SplitStream<WebSocket>;
type ToClient = SplitSink<WebSocket, Message>;
type Guest = TokioIo<Upgraded>;

async fn both_ways(
    ctx: &Context,
    id: SandboxId,
    (mut from_client, mut to_guest): (FromClient, WriteHalf<Guest>),
    (mut from_guest, to_client): (ReadHalf<Guest>, &mut ToClient),
) -> Result<(), Broken> {
    let up = async {
        let mut ended = false;
        loop {
            match from_client.next().await {
                Some(Ok(Message::Binary(bytes))) if !ended => {
                    ctx.touches.sandbox(id);
                    to_guest.write_all(&bytes).await.map_err(|_| Broken)?;
                }
                Some(Ok(Message::Text(text))) if text.as_str() == TUNNEL_EOF => {
                    ended = true;
                    // A server that hung up already hears it no more.
                    let _ = to_guest.shutdown().await;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                // Somebody who speaks on after the end, or another language.
                Some(Ok(Message::Binary(_) | Message::Text(_))) => return Err(Broken),
                // Gone with both directions: also what the server still says is for nobody.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok::<(), Broken>(()),
            }
        }
    };
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PORT_BUFFER_BYTES);
            let read = tokio::time::timeout(KEEPALIVE_EVERY, from_guest.read_buf(&mut buffer)).await;
            let message = match read {
                Err(_) => Message::Ping(Bytes::new()),
                Ok(Err(_)) => return Err(Broken),
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {
                    ctx.touches.sandbox(id);
                    Message::Binary(buffer.split().freeze())
                }
            };
            to_client.send(message).await.map_err(|_| Broken)?;
        }
        to_client.send(Message::text(TUNNEL_EOF)).await.map_err(|_| Broken)
    };
    // The client closes when it has seen both ends, or wants no more.
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        heard = up.as_mut() => heard,
        said = down.as_mut() => {
            said?;
            up.await
        }
    }
}
