//! Input on its way to a process: in order, bounded in bytes, and what came meanwhile travels together.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;
use wrenn_domain::limits::{STREAM_INPUT_BYTES_MAX, STREAM_INPUT_PIECE_BYTES, STREAM_INPUT_PIECES_MAX};

use crate::service::streams::Size;

/// What the process gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Resize(Size),
    /// Nothing more will come.
    End,
}

/// The queue between the socket and the process. One side fills it and waits when it is full, the other empties it.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    room: Notify,
    news: Notify,
}

#[derive(Default)]
struct Inner {
    pieces: VecDeque<Held>,
    bytes: usize,
    /// All bytes ever put in.
    typed: u64,
    ended: bool,
}

enum Held {
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
            Some(Held::Bytes(last)) => last.extend_from_slice(bytes),
            _ => inner.pieces.push_back(Held::Bytes(bytes.into())),
        }
        drop(inner);
        self.news.notify_one();
    }

    /// Adds a resize; of two in a row only the last counts.
    pub(super) fn resize(&self, size: Size) {
        let mut inner = self.lock();
        match inner.pieces.back_mut() {
            Some(Held::Resize(last)) => *last = size,
            _ => inner.pieces.push_back(Held::Resize(size)),
        }
        drop(inner);
        self.news.notify_one();
    }

    /// Nothing more will be added.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.news.notify_one();
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

    /// The next piece, once there is one.
    pub(super) async fn next(&self) -> Piece {
        loop {
            if let Some(piece) = self.lock().take() {
                self.room.notify_one();
                return piece;
            }
            self.news.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self) -> Option<Piece> {
        match self.pieces.front_mut() {
            None => self.ended.then_some(Piece::End),
            Some(Held::Resize(size)) => {
                let size = *size;
                self.pieces.pop_front();
                Some(Piece::Resize(size))
            }
            Some(Held::Bytes(bytes)) => {
                let piece = bytes.split_to(bytes.len().min(STREAM_INPUT_PIECE_BYTES)).to_vec();
                if bytes.is_empty() {
                    self.pieces.pop_front();
                }
                self.bytes -= piece.len();
                Some(Piece::Bytes(piece))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { cols: 10, rows: 5 };
    const LARGE: Size = Size { cols: 200, rows: 50 };

    #[tokio::test]
    async fn order_is_kept_neighbours_are_joined_and_the_end_comes_last() {
        let queue = Queue::default();
        queue.push(b"a");
        queue.push(b"b");
        queue.resize(LARGE);
        queue.resize(SMALL);
        queue.push(b"");
        queue.push(b"c");
        queue.end();
        let expected =
            [Piece::Bytes(b"ab".into()), Piece::Resize(SMALL), Piece::Bytes(b"c".into()), Piece::End, Piece::End];
        for piece in expected {
            assert_eq!(queue.next().await, piece);
        }
        assert_eq!(queue.typed(), 3);
    }

    #[tokio::test]
    async fn the_one_who_fills_it_waits_and_every_byte_comes_out() {
        let queue = Queue::default();
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
            while let Piece::Bytes(piece) = queue.next().await {
                assert!(piece.len() <= STREAM_INPUT_PIECE_BYTES);
                got.extend(piece);
                tokio::task::yield_now().await;
            }
            got
        };
        let ((), got) = tokio::join!(fill, empty);
        assert!(got == all);
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
