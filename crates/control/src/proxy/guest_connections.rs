//! HTTP connections to guests' servers: a tunnel each, kept for the next request while idle.
//!
//! Bounded three ways: idle ones per capsule and port, by age, and all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::limits::{PROXY_HEAD_BYTES_MAX, PROXY_HEADERS_MAX, PROXY_IDLE_KEPT, PROXY_IDLE_PER_PORT_MAX};

use crate::context::Context;
use crate::state::permits::{Permits, TunnelPermit};
use crate::state::pool::Full;
use crate::sync::lock;

/// How long a request waits for a permit that an idle connection is about to give up.
const PERMIT_WAIT: Duration = Duration::from_secs(1);
/// Between two looks for a permit that comes back.
const PERMIT_POLL: Duration = Duration::from_millis(5);

/// A port of a capsule.
pub(super) type Key = (SandboxId, u16);

/// One connection to a guest's server.
pub(super) struct GuestConnection {
    pub sender: SendRequest<Body>,
    /// Permit of the connection among all; whoever uses the connection after an upgrade holds it.
    pub permit: Arc<TunnelPermit>,
}

struct Idle {
    connection: GuestConnection,
    since: Instant,
}

/// Idle connections to guests' servers.
#[derive(Default)]
pub(super) struct ConnectionPool {
    idle: Mutex<IdleConnections>,
}

#[derive(Default)]
struct IdleConnections {
    by_port: HashMap<Key, Vec<Idle>>,
    /// Nothing is kept any more.
    closed: bool,
}

impl ConnectionPool {
    /// An idle one; the youngest, which is the least likely to be hung up just now.
    pub fn take(&self, key: Key) -> Option<GuestConnection> {
        let mut idle = lock(&self.idle);
        let by_port = idle.by_port.get_mut(&key)?;
        let mut found = None;
        while let Some(Idle { connection, since }) = by_port.pop() {
            if connection.sender.is_ready() && since.elapsed() < PROXY_IDLE_KEPT {
                found = Some(connection);
                break;
            }
        }
        if by_port.is_empty() {
            idle.by_port.remove(&key);
        }
        found
    }

    /// Keeps one that is ready for the next request.
    pub fn keep(&self, key: Key, connection: GuestConnection) {
        let mut idle = lock(&self.idle);
        if idle.closed {
            return;
        }
        let by_port = idle.by_port.entry(key).or_default();
        if by_port.len() < PROXY_IDLE_PER_PORT_MAX {
            by_port.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Drops those that are too old or hung up.
    pub fn sweep(&self) {
        lock(&self.idle).by_port.retain(|_, by_port| {
            by_port.retain(|idle| idle.since.elapsed() < PROXY_IDLE_KEPT && !idle.connection.sender.is_closed());
            !by_port.is_empty()
        });
    }

    /// Drops them all, for good.
    pub fn close(&self) {
        let mut idle = lock(&self.idle);
        (idle.closed, idle.by_port) = (true, HashMap::new());
    }

    /// Takes the permits of a new connection. When there is none, idle connections make room: those of the same capsule, or the longest
    /// idle of all.
    ///
    /// # Errors
    /// When there is none within [`PERMIT_WAIT`]; the error says which bound is reached.
    pub async fn permit(&self, permits: &Permits, id: SandboxId, team: TeamId) -> Result<Arc<TunnelPermit>, Full> {
        let until = Instant::now() + PERMIT_WAIT;
        loop {
            let full = match permits.tunnel(id, team) {
                Ok(permit) => return Ok(Arc::new(permit)),
                Err(full) => full,
            };
            if !self.drop_idle(full, id) && Instant::now() >= until {
                return Err(full);
            }
            // What was dropped gives its permit back when its task has ended.
            tokio::time::sleep(PERMIT_POLL).await;
        }
    }

    /// Drops an idle connection to make room; false when there is none.
    fn drop_idle(&self, full: Full, id: SandboxId) -> bool {
        let mut idle = lock(&self.idle);
        let fits = |key: &Key| full == Full::Total || key.0 == id;
        let oldest = idle.by_port.iter().filter(|(key, _)| fits(key));
        let oldest = oldest.min_by_key(|(_, by_port)| by_port.first().map(|idle| idle.since)).map(|(key, _)| *key);
        let Some(by_port) = oldest.and_then(|key| idle.by_port.get_mut(&key)) else { return false };
        by_port.remove(0);
        idle.by_port.retain(|_, by_port| !by_port.is_empty());
        true
    }
}

/// Speaks HTTP/1.1 over a tunnel.
pub(super) async fn begin(
    ctx: &Context,
    tunnel: Upgraded,
    permit: Arc<TunnelPermit>,
) -> Result<GuestConnection, hyper::Error> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(PROXY_HEAD_BYTES_MAX)
        .max_headers(PROXY_HEADERS_MAX)
        // Old servers fold long lines and leave blanks before colons; what is passed on is normal.
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(tunnel)
        .await?;
    let held = permit.clone();
    ctx.tasks.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a guest's server ended early");
        }
        drop(held);
    });
    Ok(GuestConnection { sender, permit })
}
