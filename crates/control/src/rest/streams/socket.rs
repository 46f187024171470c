//! One WebSocket from its upgrade to its end: pings, bounds, and failures said inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite;
use wrenn_contract::rest::error::ErrorCode;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::{
    FIRST_FRAME_MAX, FRAME_BYTES_MAX, STREAM_FAREWELL_MAX, STREAM_INPUT_SILENCE_MAX, STREAM_MESSAGES_BURST,
    STREAM_MESSAGES_PER_SEC_MAX, STREAM_READ_BUFFER_BYTES, STREAM_TOUCH_EVERY,
};

use super::input::{Queue, Run};
use crate::actor::Actor;
use crate::answer::{ApiError, request_id, within_request};
use crate::context::Context;
use crate::error::ServiceError;
use crate::service::streams::{self, Fed, InputKind, Inside};
use crate::service::{credential_watch, lookup};

/// A send that took this long waited for the client to read.
const TOOK_LONG_MS: u64 = 100;

/// Between two tries to feed a process that too many feed already.
const FEED_AGAIN: Duration = Duration::from_millis(50);

/// The upgrade as it was asked for, if it was.
pub(in crate::rest) type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Conversation held on one socket.
pub(super) trait Conversation: Send + 'static {
    /// Sent with every ping, for clients that see no others.
    const PING: Option<&'static str> = None;
    /// The client speaks first. One that does fails at its own frame when it finds the stream closed, and never reads why.
    const CLIENT_BEGINS: bool;

    /// Talks to the end. Dropping this ends it too.
    fn hold(self, session: &Session<'_>, from: &mut Incoming) -> impl Future<Output = Result<(), End>> + Send;

    /// The frame that says why it ended.
    fn failure(text: String) -> String;
}

/// Why a conversation ended early.
pub(super) enum End {
    /// The client is gone, or silent for so long that it must be.
    Hung,
    /// To be said to the client.
    Failed { error: ApiError, code: CloseCode },
}

impl<E: Into<ApiError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed { error: error.into(), code: close_code::NORMAL }
    }
}

/// Accepts the upgrade and talks. From here on every failure is said inside.
pub(super) fn serve<C: Conversation>(
    ctx: Arc<Context>,
    actor: Arc<Actor>,
    capsule: Result<SandboxId, ApiError>,
    upgrade: Upgrade,
    conversation: Result<C, ApiError>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| ApiError::invalid("this route speaks WebSocket; send an upgrade request"))?;
    let upgrade = upgrade
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .read_buffer_size(STREAM_READ_BUFFER_BYTES)
        // Every message is flushed: gathering here would only cost memory.
        .write_buffer_size(0);
    let id = request_id();
    Ok(upgrade.on_upgrade(move |socket| {
        // Tracked: the end of the server waits until everybody was told. Boxed, here and below: a future that is moved into
        // another one is held twice.
        let tasks = ctx.tasks.clone();
        within_request(id, tasks.track_future(Box::pin(run(ctx, actor, capsule, conversation, socket))))
    }))
}

async fn run<C: Conversation>(
    ctx: Arc<Context>,
    actor: Arc<Actor>,
    capsule: Result<SandboxId, ApiError>,
    conversation: Result<C, ApiError>,
    socket: WebSocket,
) {
    let (sink, stream) = socket.split();
    let peer = Arc::new(Peer::new());
    let out = Outgoing { sink: Mutex::new(sink), peer: peer.clone() };
    let mut from = Incoming { stream, peer, bucket: Bucket::full() };
    let stop = ctx.stop.clone();
    let end = tokio::select! {
        // In any order: each waits for another party.
        end = Box::pin(talk(&ctx, &actor, capsule, conversation, &out, &mut from)) => end,
        () = stop.cancelled() => failed("the server restarts; connect again", close_code::RESTART),
        // A stream must not outlive what it was opened with.
        () = credential_watch::lost(&ctx, &actor) => {
            failed("what this was opened with no longer holds; log in again or use another key", close_code::POLICY)
        }
        () = keep_alive(&ctx, &out, C::PING) => Err(End::Hung),
    };
    let _ = timeout(STREAM_FAREWELL_MAX, farewell::<C>(end, &out, &mut from)).await;
}

fn failed(text: &str, code: CloseCode) -> Result<(), End> {
    Err(End::Failed { error: ApiError::new(ErrorCode::ServiceUnavailable, text), code })
}

async fn talk<C: Conversation>(
    ctx: &Arc<Context>,
    actor: &Arc<Actor>,
    capsule: Result<SandboxId, ApiError>,
    conversation: Result<C, ApiError>,
    out: &Outgoing,
    from: &mut Incoming,
) -> Result<(), End> {
    let entered = async {
        let (id, conversation) = (capsule?, conversation?);
        Ok::<_, End>((id, conversation, streams::enter(ctx, actor, id).await?))
    };
    let (id, conversation, inside) = match entered.await {
        Ok(entered) => entered,
        Err(end) => {
            if C::CLIENT_BEGINS {
                let _ = timeout(STREAM_FAREWELL_MAX, from.stream.next()).await;
            }
            return Err(end);
        }
    };
    let session = Session { inside, out, ctx: ctx.clone(), id, touched: AtomicU64::new(0) };
    let end = Box::pin(conversation.hold(&session, from)).await;
    ctx.touches.sandbox(id);
    match end {
        // What broke the connection is the cause, not that it broke.
        Err(End::Failed { error, code }) if error.is_about_the_host() => {
            let ended = Box::pin(lookup::ended_meanwhile(ctx, actor, id)).await;
            Err(End::Failed { error: ended.map_or(error, ApiError::from), code })
        }
        end => end,
    }
}

/// Tells why, says good-bye, and waits until the client has read it: closing with input unread would reset the connection,
/// and the client would lose the last frames.
async fn farewell<C: Conversation>(end: Result<(), End>, out: &Outgoing, from: &mut Incoming) {
    let code = match end {
        Ok(()) => close_code::NORMAL,
        Err(End::Hung) => return,
        Err(End::Failed { error, code }) => {
            let _ = out.send(Message::text(C::failure(error.message().to_owned()))).await;
            code
        }
    };
    let close = Message::Close(Some(CloseFrame { code, reason: "".into() }));
    if out.send(close).await.is_ok() {
        while let Some(Ok(_)) = from.stream.next().await {}
    }
}

/// Pings for as long as the peer shows signs of life; returns when it has shown none for too long.
async fn keep_alive(ctx: &Context, out: &Outgoing, also: Option<&'static str>) {
    loop {
        tokio::time::sleep(ctx.tuning.stream_ping).await;
        let pinged = async {
            if let Some(text) = also {
                out.send(Message::text(text)).await?;
            }
            out.send(Message::Ping(Bytes::new())).await
        };
        if pinged.await.is_err() || out.peer.silence() > ctx.tuning.stream_silence {
            return;
        }
    }
}

/// Session a conversation is held with.
pub(super) struct Session<'a> {
    /// The sandbox it is about.
    pub(super) inside: Inside,
    pub(super) out: &'a Outgoing,
    ctx: Arc<Context>,
    id: SandboxId,
    /// Last mark of activity, in ms of the peer's clock; 0 before the first.
    touched: AtomicU64,
}

impl Session<'_> {
    /// Something happened: the sandbox is in use. Cheap.
    pub(super) fn active(&self) {
        let now = self.out.peer.now();
        let last = self.touched.load(Ordering::Relaxed);
        if last == 0 || now.saturating_sub(last) >= ms(STREAM_TOUCH_EVERY) {
            self.touched.store(now.max(1), Ordering::Relaxed);
            self.ctx.touches.sandbox(self.id);
        }
    }

    /// Feeds the process what is next for as long as that is bytes, and returns when it took them.
    pub(super) async fn feed(&self, pid: u32, kind: InputKind, queue: &Arc<Queue>) -> Result<(), ServiceError> {
        let run = Run::begin(queue.clone());
        if self.inside.feed(pid, kind, run.bytes(STREAM_INPUT_SILENCE_MAX)).await? == Fed::Nothing {
            run.put_back();
            tokio::time::sleep(FEED_AGAIN).await;
        }
        Ok(())
    }
}

/// Signs of life of the other side.
struct Peer {
    began: Instant,
    heard_ms: AtomicU64,
    /// Whether it is not listened to now, because the process does not read.
    unheard: AtomicBool,
}

impl Peer {
    fn new() -> Self {
        Self { began: Instant::now(), heard_ms: AtomicU64::new(0), unheard: AtomicBool::new(false) }
    }

    fn now(&self) -> u64 {
        ms(self.began.elapsed())
    }

    fn lives(&self) {
        self.heard_ms.store(self.now(), Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        if self.unheard.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        Duration::from_millis(self.now().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The way to the client, for all who have something to say.
pub(super) struct Outgoing {
    sink: Mutex<SplitSink<WebSocket, Message>>,
    peer: Arc<Peer>,
}

impl Outgoing {
    /// Sends a message; as slow as the client reads.
    pub(super) async fn send(&self, message: Message) -> Result<(), End> {
        let mut sink = self.sink.lock().await;
        let before = self.peer.now();
        sink.send(message).await.map_err(|_| End::Hung)?;
        // It made us wait and then took bytes: slow, but there.
        if self.peer.now() > before + TOOK_LONG_MS {
            self.peer.lives();
        }
        Ok(())
    }

    /// Sends a frame of JSON.
    pub(super) async fn json<T: Serialize>(&self, frame: &T) -> Result<(), End> {
        let text = serde_json::to_string(frame)
            .map_err(|_| ApiError::new(ErrorCode::InternalError, "a frame could not be written"))?;
        self.send(Message::text(text)).await
    }
}

/// A message with content.
pub(super) enum Said {
    Text(String),
    Binary(Bytes),
}

/// The way from the client.
pub(super) struct Incoming {
    stream: SplitStream<WebSocket>,
    peer: Arc<Peer>,
    bucket: Bucket,
}

impl Incoming {
    /// The next message with content. Too many a second are read more slowly.
    pub(super) async fn next(&mut self) -> Result<Said, End> {
        loop {
            let wait = self.bucket.take(Instant::now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let message = self.stream.next().await;
            self.peer.lives();
            match message {
                Some(Ok(Message::Text(text))) => return Ok(Said::Text(text.as_str().to_owned())),
                Some(Ok(Message::Binary(bytes))) => return Ok(Said::Binary(bytes)),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(End::Hung),
                Some(Err(error)) => return Err(broken(error)),
            }
        }
    }

    /// The first message, which must be text.
    pub(super) async fn first(&mut self) -> Result<String, End> {
        match timeout(FIRST_FRAME_MAX, self.next()).await {
            Ok(Ok(Said::Text(text))) => Ok(text),
            Ok(Ok(Said::Binary(_))) => Err(ApiError::invalid("the first frame must be text").into()),
            Ok(Err(end)) => Err(end),
            Err(_) => {
                let text = format!("the first frame must come within {} s", FIRST_FRAME_MAX.as_secs());
                Err(ApiError::new(ErrorCode::Timeout, text).into())
            }
        }
    }

    /// Waits for room in a queue. The client's pings wait too, so its silence means nothing meanwhile.
    pub(super) async fn wait_for(&self, queue: &Queue) {
        if queue.is_full() {
            self.peer.unheard.store(true, Ordering::Relaxed);
            queue.room().await;
            self.peer.lives();
            self.peer.unheard.store(false, Ordering::Relaxed);
        }
    }
}

/// Judges a message that could not be read.
fn broken(error: axum::Error) -> End {
    let failed = |code, close, text: &str| End::Failed { error: ApiError::new(code, text), code: close };
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => failed(
            ErrorCode::PayloadTooLarge,
            close_code::SIZE,
            &format!("a message is larger than {FRAME_BYTES_MAX} bytes; send it in pieces"),
        ),
        Some(tungstenite::Error::Utf8(_)) => failed(
            ErrorCode::InvalidRequest,
            close_code::INVALID,
            "a text message is not UTF-8; send bytes in binary messages",
        ),
        _ => End::Hung,
    }
}

/// Messages that may be taken now.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full() -> Self {
        Self { left: f64::from(STREAM_MESSAGES_BURST), at: Instant::now() }
    }

    /// Takes one, and says how long to wait before it may be used.
    fn take(&mut self, now: Instant) -> Duration {
        let rate = f64::from(STREAM_MESSAGES_PER_SEC_MAX);
        let more = (now - self.at).as_secs_f64() * rate;
        self.left = (self.left + more).min(f64::from(STREAM_MESSAGES_BURST)) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.left / rate).max(0.0))
    }
}

/// Words what could not be done, as a frame may say it.
pub(super) fn message_of(error: ServiceError) -> String {
    ApiError::from(error).message().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_is_slowed_to_the_rate_and_a_rest_is_rewarded() {
        let mut bucket = Bucket::full();
        let mut now = Instant::now();
        let mut flood = |count: u32, rest: Duration| {
            let began = now + rest;
            now = began;
            for _ in 0..count {
                now += bucket.take(now);
            }
            (now - began).as_secs_f64()
        };
        assert_eq!(flood(STREAM_MESSAGES_BURST, Duration::ZERO), 0.0);
        let took = flood(3 * STREAM_MESSAGES_PER_SEC_MAX, Duration::ZERO);
        assert!((2.99..3.01).contains(&took), "{took}");
        assert_eq!(flood(STREAM_MESSAGES_BURST, Duration::from_secs(3600)), 0.0, "a rest fills it");
        assert!(flood(1, Duration::ZERO) > 0.0, "but not beyond the burst");
    }
}
