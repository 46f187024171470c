//! `GET /v1/capsules/{id}/ports/{port}/tunnel` (WebSocket): raw TCP to a port of a capsule.
//!
//! Binary frames are bytes. The text frame `eof`, either way, says that its sender sends no more; the other direction goes on until
//! it ends too. A slow reader slows the writer: nothing is taken from one side that was not passed to the other.

use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::extract::{Path, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection};
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

use super::ApiError;
use super::extract::{Caller, CapsuleId};
use crate::context::Context;
use crate::service::{Actor, ports, standing};

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
    Path((_, port)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| ApiError::invalid("this route speaks WebSocket; send an upgrade request"))?;
    let port: Option<u16> = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| ApiError::invalid("the port must be 1 to 65535"))?;
    let guest = ports::tunnel(&ctx, &actor, id, port).await?;
    let upgrade = upgrade.max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| carry(ctx, actor, id, socket, guest)))
}

async fn carry(ctx: Arc<Context>, actor: Arc<Actor>, id: SandboxId, socket: WebSocket, guest: Upgraded) {
    let (mut to_client, from_client) = socket.split();
    let (from_guest, to_guest) = tokio::io::split(TokioIo::new(guest));
    let code = tokio::select! {
        // In any order: each waits for another party.
        done = both_ways(&ctx, id, (from_client, to_guest), (from_guest, &mut to_client)) => match done {
            Ok(()) => close_code::NORMAL,
            Err(Broken) => close_code::ERROR,
        },
        () = ctx.stop.cancelled() => close_code::RESTART,
        // A connection must not outlive what it was opened with.
        () = standing::lost(&ctx, &actor) => close_code::POLICY,
    };
    let _ = to_client.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await;
}

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
