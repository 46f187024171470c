//! HTTP connections to guests' servers: a tunnel each, kept for the next request while idle.
//!
//! Bounded three ways: idle ones per capsule and port, by age, and all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{PROXY_HEAD_BYTES_MAX, PROXY_IDLE_KEPT, PROXY_IDLE_PER_PORT_MAX, PROXY_TUNNELS_MAX};

use crate::context::Context;

/// How long a request waits for a place that an idle connection is about to give up.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// A port of a capsule.
pub(super) type Key = (SandboxId, u16);

/// One connection to a guest's server.
pub(super) struct Line {
    pub sender: SendRequest<Body>,
    /// Its place among all; whoever uses the connection after an upgrade holds it.
    pub place: Arc<OwnedSemaphorePermit>,
}

struct Idle {
    line: Line,
    since: Instant,
}

/// All of them.
pub(super) struct Lines {
    idle: Mutex<Idles>,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Idles {
    lines: HashMap<Key, Vec<Idle>>,
    /// Nothing is kept any more.
    closed: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { idle: Mutex::default(), places: Arc::new(Semaphore::new(PROXY_TUNNELS_MAX)) }
    }
}

impl Lines {
    /// An idle one; the youngest, which is the least likely to be hung up just now.
    pub fn take(&self, key: Key) -> Option<Line> {
        let mut idle = self.idle.lock().expect("no panic while held");
        let lines = idle.lines.get_mut(&key)?;
        let mut found = None;
        while let Some(Idle { line, since }) = lines.pop() {
            if line.sender.is_ready() && since.elapsed() < PROXY_IDLE_KEPT {
                found = Some(line);
                break;
            }
        }
        if lines.is_empty() {
            idle.lines.remove(&key);
        }
        found
    }

    /// Keeps one that is ready for the next request.
    pub fn keep(&self, key: Key, line: Line) {
        let mut idle = self.idle.lock().expect("no panic while held");
        if idle.closed {
            return;
        }
        let lines = idle.lines.entry(key).or_default();
        if lines.len() < PROXY_IDLE_PER_PORT_MAX {
            lines.push(Idle { line, since: Instant::now() });
        }
    }

    /// Drops those that are too old or hung up.
    pub fn sweep(&self) {
        self.idle.lock().expect("no panic while held").lines.retain(|_, lines| {
            lines.retain(|idle| idle.since.elapsed() < PROXY_IDLE_KEPT && !idle.line.sender.is_closed());
            !lines.is_empty()
        });
    }

    /// Drops them all, for good.
    pub fn close(&self) {
        let mut idle = self.idle.lock().expect("no panic while held");
        (idle.closed, idle.lines) = (true, HashMap::new());
    }

    /// A place for a new connection; idle ones make room when there is none.
    pub async fn place(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(Arc::new(place));
        }
        let dropped = std::mem::take(&mut self.idle.lock().expect("no panic while held").lines);
        drop(dropped);
        let waited = tokio::time::timeout(PLACE_WAIT, self.places.clone().acquire_owned()).await;
        waited.ok()?.ok().map(Arc::new)
    }
}

/// Speaks HTTP/1.1 over a tunnel.
pub(super) async fn begin(
    ctx: &Context,
    tunnel: Upgraded,
    place: Arc<OwnedSemaphorePermit>,
) -> Result<Line, hyper::Error> {
    let (sender, connection) = http1::Builder::new().max_buf_size(PROXY_HEAD_BYTES_MAX).handshake(tunnel).await?;
    let held = place.clone();
    ctx.tasks.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a guest's server ended early");
        }
        drop(held);
    });
    Ok(Line { sender, place })
}
