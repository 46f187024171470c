//! The body of an answer on its way: who holds what for it, and whether its client goes on taking it.
//!
//! A client that asks for much and takes none of it would keep all of it in memory. Over HTTP/2 nothing but the body itself notices: the
//! connection lives, its windows are shut. So each body notes when a piece of it was handed out, and takes that back when the next
//! one is asked for, which happens when the client has taken the last.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::state::permits::AnswerBytes;
use crate::state::pool::Busy;
use crate::sync::lock;

/// Bytes handed out at once: what of a large answer may lie in the buffers of a connection.
const PIECE_BYTES: usize = 64 * 1024;

/// Answers of one connection that wait for their client.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    /// When the last piece of each was handed out.
    since: HashMap<u64, Instant>,
}

impl Progress {
    /// Returns when a client has taken nothing of one of its answers for so long.
    pub(crate) async fn stalled(&self, longest: Duration) {
        loop {
            tokio::time::sleep(longest / 8).await;
            if lock(&self.0).since.values().any(|since| since.elapsed() >= longest) {
                return;
            }
        }
    }
}

/// Body of an answer.
pub(crate) struct SentBody {
    body: Body,
    /// Part of a piece that is still to be handed out.
    rest: Bytes,
    progress: Progress,
    number: u64,
    _busy: Busy<String>,
    _bytes: Option<AnswerBytes>,
}

impl SentBody {
    /// Wraps a body; what is held for it is given back when it was sent or given up.
    pub(crate) fn new(body: Body, progress: Progress, busy: Busy<String>, bytes: Option<AnswerBytes>) -> Self {
        let mut waiting = lock(&progress.0);
        waiting.next += 1;
        let number = waiting.next;
        drop(waiting);
        Self { body, rest: Bytes::new(), progress, number, _busy: busy, _bytes: bytes }
    }

    /// Hands out a piece of what is left. The last one is a copy, so that a client that does not take it holds no more than it.
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = match self.rest.len() <= PIECE_BYTES {
            true => Bytes::copy_from_slice(&std::mem::take(&mut self.rest)),
            false => self.rest.split_to(PIECE_BYTES),
        };
        lock(&self.progress.0).since.insert(self.number, Instant::now());
        Frame::data(piece)
    }
}

impl hyper::body::Body for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        lock(&self.progress.0).since.remove(&self.number);
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) if data.len() > PIECE_BYTES => {
                    self.rest = data;
                    self.piece()
                }
                Ok(data) => {
                    lock(&self.progress.0).since.insert(self.number, Instant::now());
                    Frame::data(data)
                }
                Err(trailers) => trailers,
            }))),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        lock(&self.progress.0).since.remove(&self.number);
    }
}
