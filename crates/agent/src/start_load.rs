//! When nobody waits for a start: what is made ahead of time is made then, and takes no processor from the guest somebody waits for.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

/// A guest that was just handed out runs its first command within this.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait of a pool that is empty, so that the next one who asks does not find nothing.
const PATIENCE: Duration = Duration::from_millis(700);
/// Longest wait of a pool that is only not full.
const PATIENCE_WITH_SOME: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
struct Starts {
    under_way: usize,
    last_ended: Option<Instant>,
}

/// VMMs that start at the same time, for each processor: more would only make each other slow. Nobody has a permit while a guest is
/// waited for: guests that never answer would keep all others from starting.
const STARTS_PER_CORE: usize = 4;

/// Returns how many starts have a permit at the same time.
pub fn starts_max() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) * STARTS_PER_CORE
}

/// Counts the starts somebody waits for, and bounds those that run at the same time.
pub struct StartLoad {
    starts: watch::Sender<Starts>,
    permits: Semaphore,
}

/// A start that somebody waits for, until dropped.
pub struct StartInProgress<'a>(&'a StartLoad);

impl Default for StartLoad {
    fn default() -> Self {
        let starts = watch::Sender::new(Starts { under_way: 0, last_ended: None });
        Self { starts, permits: Semaphore::new(starts_max()) }
    }
}

impl StartLoad {
    /// Notes that somebody waits for a start, until what is returned is dropped.
    pub fn begin_start(&self) -> StartInProgress<'_> {
        self.starts.send_modify(|starts| starts.under_way += 1);
        StartInProgress(self)
    }

    /// Waits for the turn of one more start; the turn ends when the permit is dropped.
    pub async fn permit(&self) -> SemaphorePermit<'_> {
        self.permits.acquire().await.expect("the semaphore is never closed")
    }

    /// Returns when nobody has waited for a while, or after a while all the same: later when there is some left.
    pub async fn wait_idle(&self, has_some: bool) {
        let asked = Instant::now();
        let mut starts = self.starts.subscribe();
        loop {
            let due = due(*starts.borrow_and_update(), asked, has_some);
            if due <= Instant::now() {
                return;
            }
            let _ = timeout_at(due, starts.changed()).await;
        }
    }
}

/// Returns when what was asked for at `asked` is to be made, as far as is known.
fn due(starts: Starts, asked: Instant, has_some: bool) -> Instant {
    let latest = asked + if has_some { PATIENCE_WITH_SOME } else { PATIENCE };
    match starts {
        Starts { under_way: 0, last_ended: Some(ended) } => latest.min(ended + QUIET),
        Starts { under_way: 0, last_ended: None } => asked,
        _ => latest,
    }
}

impl Drop for StartInProgress<'_> {
    fn drop(&mut self) {
        self.0.starts.send_modify(|starts| {
            starts.under_way -= 1;
            starts.last_ended = Some(Instant::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_after_the_last_start_and_not_too_late() {
        let (asked, second) = (Instant::now(), Duration::from_secs(1));
        let after = |starts: &StartLoad, has_some| due(*starts.starts.borrow(), asked, has_some).duration_since(asked);
        let load = StartLoad::default();
        assert_eq!(after(&load, true), Duration::ZERO, "nothing was started yet");
        let (one, two) = (load.begin_start(), load.begin_start());
        drop(one);
        assert_eq!(after(&load, false), PATIENCE, "one is still under way");
        assert_eq!(after(&load, true), PATIENCE_WITH_SOME);
        drop(two);
        assert!(after(&load, true) < QUIET + second, "it was quiet from then on");
        load.starts.send_modify(|starts| starts.last_ended = Some(asked + 2 * second));
        assert_eq!(after(&load, true), 2 * second + QUIET);
        assert_eq!(after(&load, false), PATIENCE);
    }
}
