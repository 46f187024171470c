//! Raw TCP to a port of a capsule over a WebSocket: binary frames are bytes, the text frame `eof` ends a direction.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use wrenn_contract::rest::ports::TUNNEL_EOF;

use super::{ApiError, Client, stream};

/// Bytes read of the local side at once.
const PIECE_BYTES: usize = 64 * 1024;

/// An open tunnel.
pub struct Tunnel(stream::Socket);

impl Tunnel {
    /// Connects to a port of a capsule.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn open(client: &Client, capsule: &str, port: u16) -> Result<Self, ApiError> {
        Ok(Self(stream::open(client, &format!("/v1/capsules/{capsule}/ports/{port}/tunnel")).await?))
    }

    /// Carries a local connection until both directions have ended. Each end is passed on for itself; a side that does not read
    /// makes the other wait.
    ///
    /// # Errors
    /// One of the two connections broke.
    pub async fn carry(self, mut local: TcpStream) -> Result<(), ApiError> {
        let broken = |reason: String| ApiError::Broken { reason };
        let (mut to_guest, mut from_guest) = self.0.split();
        let (mut from_local, mut to_local) = local.split();
        let up = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(PIECE_BYTES);
                let count = from_local.read_buf(&mut buffer).await.map_err(|e| broken(e.to_string()))?;
                let message = match count {
                    0 => Message::text(TUNNEL_EOF),
                    _ => Message::Binary(buffer.split().freeze()),
                };
                to_guest.send(message).await.map_err(|e| broken(e.to_string()))?;
                if count == 0 {
                    return Ok::<_, ApiError>(());
                }
            }
        };
        let down = async {
            loop {
                match from_guest.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        to_local.write_all(&bytes).await.map_err(|e| broken(e.to_string()))?;
                    }
                    Some(Ok(Message::Text(text))) if text.as_str() == TUNNEL_EOF => {
                        // A program that hung up already hears it no more.
                        let _ = to_local.shutdown().await;
                        return Ok(());
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(other)) => return Err(broken(format!("the tunnel ended with {other}"))),
                    Some(Err(error)) => return Err(broken(error.to_string())),
                    None => return Err(broken("the tunnel was cut".to_owned())),
                }
            }
        };
        let carried = tokio::try_join!(up, down).map(drop);
        match &carried {
            Ok(()) => drop(to_guest.send(Message::Close(None)).await),
            // What was cut must not look finished.
            Err(_) => drop(local.set_zero_linger()),
        }
        carried
    }
}
