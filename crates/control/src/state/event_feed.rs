//! Events on their way to those who watch.
//!
//! ```text
//! database --one reader per process--> every subscription whose team it is --> stream
//!                                        |full: the subscription is taken away, its stream ends and its client comes back
//! ```
//! Owns: subscriptions, the reader's position. Must never: read events (service/events.rs does) or know what a stream looks like.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use wrenn_domain::ids::TeamId;
use wrenn_domain::limits::LIVE_FRAMES_MAX;
use wrenn_store::pg::{FeedEntry, Sandbox};

use crate::sync::lock;

/// Something that happened, as those who watch are shown it.
#[derive(Debug)]
pub struct FeedItem {
    pub news: FeedEntry,
    /// The sandbox it is about, as it is now.
    pub sandbox: Option<Sandbox>,
    /// The frame that is sent of it, made by the first who sends it.
    pub frame: OnceLock<Bytes>,
}

/// Subscriptions of this process.
#[derive(Default)]
pub struct EventFeed {
    inner: Mutex<Inner>,
    /// Notified when something may have happened.
    pub changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// The last event number given to all subscriptions; none while nobody watches.
    position: Option<i64>,
    subscriptions: HashMap<u64, Subscriber>,
    next: u64,
}

struct Subscriber {
    /// None: every team's.
    team: Option<TeamId>,
    to: mpsc::Sender<Arc<FeedItem>>,
}

/// A subscription at which events arrive. Dropping it ends it.
pub struct Subscription {
    feed: Arc<EventFeed>,
    number: u64,
    from: mpsc::Receiver<Arc<FeedItem>>,
    /// Number of the last event that happened before this subscription.
    pub after: i64,
}

impl EventFeed {
    /// Subscribes to the events of a team (none: of all teams) that happen after [`Subscription::after`].
    ///
    /// While others watch, the reader goes on from where they are; else it begins at `newest`, the number of the newest event.
    pub(crate) fn subscribe(self: &Arc<Self>, team: Option<TeamId>, newest: i64) -> Subscription {
        let (to, from) = mpsc::channel(LIVE_FRAMES_MAX);
        let mut inner = lock(&self.inner);
        if inner.subscriptions.is_empty() {
            inner.position = Some(newest);
        }
        let after = *inner.position.get_or_insert(newest);
        let number = inner.next;
        inner.next += 1;
        inner.subscriptions.insert(number, Subscriber { team, to });
        drop(inner);
        Subscription { feed: self.clone(), number, from, after }
    }

    /// Whether anybody watches here.
    pub fn has_subscribers(&self) -> bool {
        !lock(&self.inner).subscriptions.is_empty()
    }

    /// Finds where the reader goes on; none, and given up, when nobody watches.
    pub(crate) fn position(&self) -> Option<i64> {
        let mut inner = lock(&self.inner);
        if inner.subscriptions.is_empty() {
            inner.position = None;
        }
        inner.position
    }

    /// Keeps the news that anybody here may see.
    pub(crate) fn wanted(&self, news: Vec<FeedEntry>) -> Vec<FeedEntry> {
        let inner = lock(&self.inner);
        let all = inner.subscriptions.values().any(|subscriber| subscriber.team.is_none());
        let teams: HashSet<TeamId> = inner.subscriptions.values().filter_map(|subscriber| subscriber.team).collect();
        news.into_iter().filter(|news| all || teams.contains(&news.body.team())).collect()
    }

    /// Gives items to every subscription whose team they are of; `last` is the number of the last event that was read.
    pub(crate) fn publish(&self, items: &[Arc<FeedItem>], last: i64) {
        let mut inner = lock(&self.inner);
        inner.subscriptions.retain(|_, subscriber| {
            let team = subscriber.team;
            let mut theirs = items.iter().filter(|item| team.is_none_or(|team| team == item.news.body.team()));
            // One that is full is taken away rather than given a part: its stream ends after what it has.
            theirs.all(|item| subscriber.to.try_send(item.clone()).is_ok())
        });
        inner.position = Some(last);
    }
}

impl Subscription {
    /// Waits for the next item; none when this subscription was too slow and is taken away.
    pub async fn next(&mut self) -> Option<Arc<FeedItem>> {
        self.from.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.feed.inner).subscriptions.remove(&self.number);
    }
}
