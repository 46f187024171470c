//! Events on their way to one client: in order, bounded in number and bytes. When it is full, what comes is lost, and
//! one event says so in its place.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wrenn_domain::limits::{WATCHER_EVENT_BYTES_MAX, WATCHER_EVENTS_MAX};

use super::event::{Event, EventKind};

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    /// Rings when something was put in. One reader at a time.
    rang: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Event>,
    /// Bytes of names in `events`.
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// Puts an event in, unless it only repeats the last one's news.
    pub fn push(&self, event: Event) {
        let mut inner = self.lock();
        let repeats = matches!(event.kind, EventKind::Write | EventKind::Chmod);
        if inner.closed || repeats && inner.events.back() == Some(&event) {
            return;
        }
        // The last place is kept for the notice of a loss.
        let full = inner.events.len() + 1 >= WATCHER_EVENTS_MAX
            || inner.bytes + event.name.len() > WATCHER_EVENT_BYTES_MAX
            || inner.has_just_lost();
        if full {
            inner.lose();
        } else {
            inner.bytes += event.name.len();
            inner.events.push_back(event);
        }
        drop(inner);
        self.rang.notify_one();
    }

    /// Notes that events are missing.
    pub fn lose(&self) {
        self.lock().lose();
        self.rang.notify_one();
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.rang.notify_one();
    }

    /// Takes everything out.
    pub fn take(&self) -> VecDeque<Event> {
        let mut inner = self.lock();
        inner.bytes = 0;
        std::mem::take(&mut inner.events)
    }

    /// Whether nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Returns when something was put in since the last [`Self::take`], or it was closed.
    pub async fn rang(&self) {
        self.rang.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// After a loss nothing is taken in until the client has read: a single event after a gap would look like the
    /// whole story.
    fn has_just_lost(&self) -> bool {
        self.events.back().is_some_and(|last| last.kind == EventKind::Lost)
    }

    fn lose(&mut self) {
        if !self.closed && !self.has_just_lost() {
            self.events.push_back(Event { name: String::new(), kind: EventKind::Lost });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: impl Into<String>, kind: EventKind) -> Event {
        Event { name: name.into(), kind }
    }

    #[test]
    fn a_full_queue_says_once_that_it_lost_something() {
        let queue = Queue::default();
        for n in 0..2 * WATCHER_EVENTS_MAX {
            queue.push(event(format!("{n}"), EventKind::Create));
        }
        let taken = queue.take();
        assert_eq!(taken.len(), WATCHER_EVENTS_MAX);
        assert_eq!(taken[0], event("0", EventKind::Create));
        let lost = taken.iter().filter(|event| event.kind == EventKind::Lost).count();
        assert_eq!((lost, taken.back().unwrap().kind), (1, EventKind::Lost));
        queue.push(event("after", EventKind::Create));
        assert_eq!(queue.take(), [event("after", EventKind::Create)]);
    }

    #[test]
    fn long_names_fill_it_before_their_number_does() {
        let queue = Queue::default();
        let name = "n".repeat(4096);
        for _ in 0..WATCHER_EVENTS_MAX {
            queue.push(event(name.as_str(), EventKind::Create));
        }
        let taken = queue.take();
        assert_eq!(taken.len(), WATCHER_EVENT_BYTES_MAX / 4096 + 1);
        assert_eq!(taken.back().unwrap().kind, EventKind::Lost);
    }

    #[test]
    fn only_repeated_writes_and_chmods_are_one() {
        let queue = Queue::default();
        for kind in [EventKind::Create, EventKind::Write, EventKind::Write, EventKind::Chmod, EventKind::Chmod] {
            queue.push(event("a", kind));
        }
        queue.push(event("b", EventKind::Write));
        queue.push(event("a", EventKind::Write));
        queue.push(event("a", EventKind::Create));
        queue.push(event("a", EventKind::Create));
        assert_eq!(queue.take().len(), 7);
    }
}
