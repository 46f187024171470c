//! The tunnels of one guest: so many at once, and the longest idle one ends when another is opened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wrenn_domain::limits::PORT_HALF_CLOSED_MAX;

use crate::mutex::lock;

/// Between two checks whether a half-closed tunnel is still used.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Activity is reported at most this often per tunnel; time-outs are counted in minutes.
const REPORT_EVERY_US: u64 = 500_000;

/// Tunnels are those of one guest. Clones share them.
#[derive(Clone, Default)]
pub struct Tunnels(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next: u64,
    tunnels: BTreeMap<u64, (Arc<Used>, CancellationToken)>,
}

/// Tunnel is one that is open or being opened, until dropped.
pub struct Tunnel {
    tunnels: Tunnels,
    number: u64,
    used: Arc<Used>,
    ended: CancellationToken,
}

impl Tunnels {
    /// Enters a new tunnel. Where there are `most` already, the longest idle ones end.
    pub fn enter(&self, most: usize, used: Used) -> Tunnel {
        let (used, ended) = (Arc::new(used), CancellationToken::new());
        let mut open = lock(&self.0);
        while open.tunnels.len() >= most.max(1) {
            let idle = open.tunnels.iter().min_by_key(|(_, (used, _))| used.last()).map(|(number, _)| *number);
            let Some((_, longest_idle)) = idle.and_then(|number| open.tunnels.remove(&number)) else { break };
            longest_idle.cancel();
        }
        let number = open.next;
        open.next += 1;
        open.tunnels.insert(number, (Arc::clone(&used), ended.clone()));
        Tunnel { tunnels: self.clone(), number, used, ended }
    }
}

impl Tunnel {
    /// Returns the note of when it was used.
    pub fn used(&self) -> &Used {
        &self.used
    }

    /// Returns when the tunnel is to end, because another was opened.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        lock(&self.tunnels.0).tunnels.remove(&self.number);
    }
}

/// Used notes when a tunnel was used, in microseconds since it was opened, and whether a side of it has ended.
pub struct Used {
    began: Instant,
    at_us: AtomicU64,
    /// When activity was reported last; [`NEVER`] before the first time.
    reported_us: AtomicU64,
    half_closed: AtomicBool,
    activity: Arc<dyn Fn() + Send + Sync>,
}

const NEVER: u64 = u64::MAX;

impl Used {
    /// Notes nothing yet; `activity` is called when bytes pass.
    pub fn new(activity: Arc<dyn Fn() + Send + Sync>) -> Self {
        let (at_us, reported_us) = (AtomicU64::new(0), AtomicU64::new(NEVER));
        Self { began: Instant::now(), at_us, reported_us, half_closed: false.into(), activity }
    }

    /// Notes that the tunnel was opened, or that bytes passed.
    pub fn now(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(NEVER - 1);
        self.at_us.store(now, Ordering::Relaxed);
        let reported = self.reported_us.load(Ordering::Relaxed);
        if reported == NEVER || now.saturating_sub(reported) >= REPORT_EVERY_US {
            self.reported_us.store(now, Ordering::Relaxed);
            (self.activity)();
        }
    }

    /// Notes that a side has ended.
    pub fn half_close(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_micros(self.at_us.load(Ordering::Relaxed))
    }

    /// Returns when one side has ended and nothing has passed for so long that nobody waits for the other.
    pub async fn given_up(&self) {
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            if self.half_closed.load(Ordering::Relaxed) && self.last().elapsed() >= PORT_HALF_CLOSED_MAX {
                return;
            }
        }
    }
}
