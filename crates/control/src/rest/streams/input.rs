//! Input on its way to a process: in order, bounded in bytes, and what came meanwhile travels together.
//!
//! It travels in runs. A run is one request that stays open while somebody types, so that a keystroke costs no request of its own. It
//! ends with a resize, with silence, or when it has carried [`STREAM_INPUT_RUN_BYTES`]; until its answer has come, what it carried is kept.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::Notify;
use tokio::time::timeout;
use wrenn_domain::limits::{STREAM_INPUT_BYTES_MAX, STREAM_INPUT_PIECES_MAX, STREAM_INPUT_RUN_BYTES};

use crate::service::streams::Size;
use crate::sync::lock;

/// Next thing the process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Bytes, to be fed in a [`Run`].
    Bytes,
    Resize(Size),
    /// Nothing more will come.
    End,
}

/// The queue between the socket and the process. One side fills it and waits when it is full, the other empties it.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    room: Notify,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// All bytes ever put in.
    typed: u64,
    ended: bool,
    /// Number of the newest run; an older one gets nothing more.
    run: u64,
    /// Bytes that run carried.
    carried: Vec<u8>,
}

enum Piece {
    Bytes(BytesMut),
    Resize(Size),
}

impl Queue {
    /// Adds bytes as they are. To be followed by [`Queue::room`].
    pub(super) fn push(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.bytes += bytes.len();
        inner.typed += bytes.len() as u64;
        match inner.pieces.back_mut() {
            Some(Piece::Bytes(last)) => last.extend_from_slice(bytes),
            _ => inner.pieces.push_back(Piece::Bytes(bytes.into())),
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Adds a resize; of two in a row only the last counts.
    pub(super) fn resize(&self, size: Size) {
        let mut inner = self.lock();
        match inner.pieces.back_mut() {
            Some(Piece::Resize(last)) => *last = size,
            _ => inner.pieces.push_back(Piece::Resize(size)),
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Nothing more will be added.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_waiters();
    }

    /// True when there is no room for more now.
    pub(super) fn is_full(&self) -> bool {
        let inner = self.lock();
        inner.bytes >= STREAM_INPUT_BYTES_MAX || inner.pieces.len() >= STREAM_INPUT_PIECES_MAX
    }

    /// Returns when there is room for more.
    pub(super) async fn room(&self) {
        while self.is_full() {
            self.room.notified().await;
        }
    }

    /// All bytes ever put in: tells whether somebody typed since.
    pub(super) fn typed(&self) -> u64 {
        self.lock().typed
    }

    /// Waits for what is next. Takes a resize, and leaves bytes where they are.
    pub(super) async fn next(&self) -> Next {
        self.wait(|inner| match inner.pieces.front() {
            None => inner.ended.then_some(Next::End),
            Some(Piece::Bytes(_)) => Some(Next::Bytes),
            Some(Piece::Resize(size)) => {
                let size = *size;
                inner.pieces.pop_front();
                Some(Next::Resize(size))
            }
        })
        .await
    }

    /// Looks after every change until there is something to see.
    async fn wait<T>(&self, mut find: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before looking, so that what comes while we look rings too.
            changed.as_mut().enable();
            let seen = find(&mut self.lock());
            if let Some(seen) = seen {
                self.room.notify_one();
                return seen;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    /// The next bytes of a run; `Some(None)` when it is over.
    fn take(&mut self, run: u64) -> Option<Option<Bytes>> {
        let room = STREAM_INPUT_RUN_BYTES.saturating_sub(self.carried.len());
        if run != self.run || room == 0 {
            return Some(None);
        }
        match self.pieces.front_mut() {
            None => self.ended.then_some(None),
            Some(Piece::Resize(_)) => Some(None),
            Some(Piece::Bytes(bytes)) => {
                let piece = bytes.split_to(bytes.len().min(room)).freeze();
                if bytes.is_empty() {
                    self.pieces.pop_front();
                }
                self.bytes -= piece.len();
                self.carried.extend_from_slice(&piece);
                Some(Some(piece))
            }
        }
    }
}

/// One run. Dropping it ends it; what it has not carried by then is for the next one.
pub(super) struct Run {
    queue: Arc<Queue>,
    number: u64,
}

impl Run {
    pub(super) fn begin(queue: Arc<Queue>) -> Self {
        let mut inner = queue.lock();
        inner.run += 1;
        inner.carried.clear();
        let number = inner.run;
        drop(inner);
        Self { queue, number }
    }

    /// The bytes it carries, until nothing came for `silence`. May be polled on after the run is over, and then ends.
    pub(super) fn bytes(&self, silence: Duration) -> impl Stream<Item = Bytes> + Send + 'static {
        futures::stream::unfold((self.queue.clone(), self.number), move |(queue, number)| async move {
            let next = timeout(silence, queue.wait(|inner| inner.take(number))).await;
            next.ok().flatten().map(|bytes| (bytes, (queue, number)))
        })
    }

    /// Puts back what it carried, none of which was taken: all of it is next again.
    pub(super) fn put_back(self) {
        let mut inner = self.queue.lock();
        // Over now: its stream must not take what is put back.
        inner.run += 1;
        let mut carried = BytesMut::from(&*std::mem::take(&mut inner.carried));
        inner.bytes += carried.len();
        if let Some(Piece::Bytes(rest)) = inner.pieces.front() {
            carried.extend_from_slice(rest);
            inner.pieces.pop_front();
        }
        if !carried.is_empty() {
            inner.pieces.push_front(Piece::Bytes(carried));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut inner = self.queue.lock();
        inner.run += 1;
        inner.carried = Vec::new();
        drop(inner);
        self.queue.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    const SMALL: Size = Size { cols: 10, rows: 5 };
    const LARGE: Size = Size { cols: 200, rows: 50 };
    const SILENCE: Duration = Duration::from_millis(300);

    async fn carried(queue: &Arc<Queue>) -> Vec<u8> {
        let run = Run::begin(queue.clone());
        run.bytes(SILENCE).collect::<Vec<_>>().await.concat()
    }

    #[tokio::test]
    async fn order_is_kept_neighbours_are_joined_and_the_end_comes_last() {
        let queue = Arc::new(Queue::default());
        queue.push(b"a");
        queue.push(b"b");
        queue.resize(LARGE);
        queue.resize(SMALL);
        queue.push(b"");
        queue.push(b"c");
        queue.end();
        assert_eq!(queue.next().await, Next::Bytes);
        assert_eq!(carried(&queue).await, b"ab");
        assert_eq!(queue.next().await, Next::Resize(SMALL));
        assert_eq!(queue.next().await, Next::Bytes);
        assert_eq!(carried(&queue).await, b"c");
        assert_eq!((queue.next().await, queue.next().await), (Next::End, Next::End));
        assert_eq!(queue.typed(), 3);
    }

    #[tokio::test]
    async fn the_one_who_fills_it_waits_and_every_byte_comes_out() {
        let queue = Arc::new(Queue::default());
        let all: Vec<u8> = (0..=250u8).cycle().take(5 * STREAM_INPUT_BYTES_MAX + 7).collect();
        let fill = async {
            for piece in all.chunks(100_001) {
                queue.room().await;
                queue.push(piece);
                assert!(queue.lock().bytes < STREAM_INPUT_BYTES_MAX + 100_001);
            }
            queue.end();
        };
        let empty = async {
            let mut got = Vec::new();
            while queue.next().await == Next::Bytes {
                let run = carried(&queue).await;
                assert!(!run.is_empty() && run.len() <= STREAM_INPUT_RUN_BYTES);
                got.extend(run);
                tokio::task::yield_now().await;
            }
            got
        };
        let ((), got) = tokio::join!(fill, empty);
        assert!(got == all);
    }

    #[tokio::test]
    async fn a_run_takes_keys_as_they_come_and_ends_with_silence() {
        let queue = Arc::new(Queue::default());
        let run = Run::begin(queue.clone());
        let mut bytes = Box::pin(run.bytes(SILENCE));
        for key in [b"a", b"b"] {
            let (got, ()) = tokio::join!(bytes.next(), async { queue.push(key) });
            assert_eq!(got.as_deref(), Some(&key[..]));
        }
        assert_eq!(bytes.next().await, None);
    }

    #[tokio::test]
    async fn what_a_refused_run_carried_is_next_again_and_an_older_run_gets_nothing() {
        let queue = Arc::new(Queue::default());
        queue.push(b"ab");
        let run = Run::begin(queue.clone());
        let mut bytes = Box::pin(run.bytes(SILENCE));
        assert_eq!(bytes.next().await.as_deref(), Some(&b"ab"[..]));
        queue.push(b"c");
        run.put_back();
        queue.resize(SMALL);
        queue.end();
        assert_eq!(bytes.next().await, None, "it is over");
        assert_eq!(queue.next().await, Next::Bytes);
        assert_eq!(carried(&queue).await, b"abc");
        assert_eq!(queue.next().await, Next::Resize(SMALL));
    }

    #[test]
    fn resizes_between_keystrokes_are_bounded_too() {
        let queue = Queue::default();
        for _ in 0..STREAM_INPUT_PIECES_MAX {
            queue.push(b"x");
            queue.resize(SMALL);
        }
        assert!(queue.is_full());
    }
}
