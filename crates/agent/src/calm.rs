//! When nobody waits for a start: what is made ahead of time is made then, and takes no processor from the guest somebody waits for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A guest that was just handed out runs its first command within this.
const QUIET: Duration = Duration::from_millis(300);
/// What is missing altogether waits no longer than this, so that the next one who asks does not find nothing.
const PATIENCE: Duration = Duration::from_millis(700);
/// What is only not full.
const PATIENCE_IN_STOCK: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
struct Starts {
    under_way: usize,
    last_ended: Option<Instant>,
}

/// Counts starts.
pub struct Calm(watch::Sender<Starts>);

/// A start under way, until dropped.
pub struct Busy<'a>(&'a Calm);

impl Default for Calm {
    fn default() -> Self {
        Self(watch::Sender::new(Starts { under_way: 0, last_ended: None }))
    }
}

impl Calm {
    /// Somebody waits for a start from now on.
    pub fn busy(&self) -> Busy<'_> {
        self.0.send_modify(|starts| starts.under_way += 1);
        Busy(self)
    }

    /// Returns when nobody has waited for a while, or after a while all the same: later when there is some left in stock.
    pub async fn come(&self, in_stock: bool) {
        let asked = Instant::now();
        let mut starts = self.0.subscribe();
        loop {
            let due = due(*starts.borrow_and_update(), asked, in_stock);
            if due <= Instant::now() {
                return;
            }
            let _ = timeout_at(due, starts.changed()).await;
        }
    }
}

/// When what was asked for then is to be made, as far as is known.
fn due(starts: Starts, asked: Instant, in_stock: bool) -> Instant {
    let latest = asked + if in_stock { PATIENCE_IN_STOCK } else { PATIENCE };
    match starts {
        Starts { under_way: 0, last_ended: Some(ended) } => latest.min(ended + QUIET),
        Starts { under_way: 0, last_ended: None } => asked,
        _ => latest,
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|starts| {
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
        let after = |starts: &Calm, in_stock| due(*starts.0.borrow(), asked, in_stock).duration_since(asked);
        let calm = Calm::default();
        assert_eq!(after(&calm, true), Duration::ZERO, "nothing was started yet");
        let (one, two) = (calm.busy(), calm.busy());
        drop(one);
        assert_eq!(after(&calm, false), PATIENCE, "one is still under way");
        assert_eq!(after(&calm, true), PATIENCE_IN_STOCK);
        drop(two);
        assert!(after(&calm, true) < QUIET + second, "it was quiet from then on");
        calm.0.send_modify(|starts| starts.last_ended = Some(asked + 2 * second));
        assert_eq!(after(&calm, true), 2 * second + QUIET);
        assert_eq!(after(&calm, false), PATIENCE);
    }
}
