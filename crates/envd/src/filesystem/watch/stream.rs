//! A watch as a stream of messages: a start, events as they come, and a keepalive in every long silence.

use std::collections::VecDeque;
use std::time::Duration;

use axum::http::HeaderMap;
use connectrpc::ServiceStream;
use futures::stream::unfold;
use wrenn_contract::proto::filesystem::__buffa::oneof::watch_dir_response::Event as Message;
use wrenn_contract::proto::filesystem::WatchDirResponse;
use wrenn_contract::proto::filesystem::watch_dir_response::{KeepAlive, StartEvent};
use wrenn_domain::limits::KEEPALIVE_EVERY;

use super::event::Event;
use super::watched::Watch;

/// Clients behind impatient proxies ask for more frequent signs of life, in seconds.
const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";

/// The silence after which this client wants a sign of life: at least a second, at most [`KEEPALIVE_EVERY`].
pub fn keepalive_every(headers: &HeaderMap) -> Duration {
    let asked = headers.get(KEEPALIVE_HEADER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    asked.map_or(KEEPALIVE_EVERY, |sec| Duration::from_secs(sec.max(1)).min(KEEPALIVE_EVERY))
}

/// The messages. Ends when the watched directory itself is gone; dropping it ends the watch.
pub fn stream(watch: Watch, keepalive: Duration) -> ServiceStream<WatchDirResponse> {
    let state = State { watch, keepalive, ready: VecDeque::new(), started: false };
    Box::pin(unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok(WatchDirResponse { event: Some(event), ..Default::default() }), state))
    }))
}

struct State {
    watch: Watch,
    keepalive: Duration,
    ready: VecDeque<Event>,
    started: bool,
}

impl State {
    async fn next(&mut self) -> Option<Message> {
        if !std::mem::replace(&mut self.started, true) {
            return Some(StartEvent::default().into());
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event.into_proto().into());
            }
            // Asked before the queue is emptied: what is put in before it closes must not be missed.
            let closed = self.watch.queue.is_closed();
            self.ready = self.watch.queue.take();
            if !self.ready.is_empty() {
                continue;
            }
            if closed {
                return None;
            }
            if tokio::time::timeout(self.keepalive, self.watch.queue.rang()).await.is_err() {
                return Some(KeepAlive::default().into());
            }
        }
    }
}
