//! `/v1/events/stream` and `/v1/admin/events/stream`: what happens, as server-sent events.
//!
//! ```text
//! connected, then what was missed since Last-Event-ID and the comment "caught up", then what happens; a comment each 30 s
//! ```
//! A stream ends when its reader is too slow, its credential is taken away or the server ends: a comment says which. Its client
//! connects again with the last id it saw, and is told all it missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, header};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::events::{CAUGHT_UP, EventActor, EventFrame, EventKind, EventResource, WatchEvents};
use wrenn_domain::event::{ActorType, EventType};
use wrenn_domain::ids::EventId;
use wrenn_domain::limits::KEEPALIVE_EVERY;
use wrenn_store::pg::{Author, FeedBody, ResumePoint};

use super::extract::{Caller, Params};
use super::render::capsule;
use crate::answer::ApiError;
use crate::auth::session::middleware::RequireAdmin;
use crate::context::Context;
use crate::error::ServiceError;
use crate::service::credential_watch;
use crate::service::events::{self, Admitted, Viewer};
use crate::state::event_feed::{FeedItem, Subscription};

/// Frames on their way to the socket: the subscription is where a slow reader's frames wait.
const FRAMES_AHEAD: usize = 4;

/// How long the reason of a stream's end waits for its place behind the last frames.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(2);

/// Watch the team's events
///
/// Server-sent events. The first frame is `connected`; `data` is an EventFrame. Events carry an `id`: connect again with it in
/// Last-Event-ID to be told first what was missed, which ends with the comment `caught up`. Each arrives at least once;
/// `capsule.state.changed` is told only while it happens. A comment comes every 30 seconds. A stream that its client reads too slowly is ended: connect again.
#[utoipa::path(get, path = "/v1/events/stream", tag = "capsules", params(WatchEvents), security(("api_key" = []), ("session" = [])),
    responses((status = 200, body = EventFrame, content_type = "text/event-stream"), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn watch(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    Params(query): Params<WatchEvents>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    open(ctx, Viewer::Member(actor), query, &headers).await
}

/// Watch the events of all teams
///
/// As `/v1/events/stream`; also of what happens to the platform's own hosts.
#[utoipa::path(get, path = "/v1/admin/events/stream", tag = "admin", params(WatchEvents), security(("session" = [])),
    responses((status = 200, body = EventFrame, content_type = "text/event-stream"), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn watch_all(
    State(ctx): State<Arc<Context>>,
    RequireAdmin(user): RequireAdmin,
    Params(query): Params<WatchEvents>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    open(ctx, Viewer::Admin { user: user.user, session: user.session }, query, &headers).await
}

/// How a stream begins.
enum Begin {
    /// With what happens from now on.
    Now(Subscription),
    /// With what was missed.
    After(ResumePoint),
}

async fn open(
    ctx: Arc<Context>,
    viewer: Viewer,
    query: WatchEvents,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let last = last_event_id(headers, query)?;
    let permit = events::admit(&ctx, &viewer)?;
    let begin = match last {
        Some(last) => Begin::After(events::missed(&ctx, &viewer, last).await?),
        None => Begin::Now(events::subscribe(&ctx, &viewer).await?),
    };
    let (out, frames) = mpsc::channel(FRAMES_AHEAD);
    ctx.tasks.clone().spawn(feed(ctx, viewer, begin, out, permit));
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .header(header::CACHE_CONTROL, "no-cache")
        // Proxies that buffer would hold frames back.
        .header("x-accel-buffering", "no")
        .body(Body::from_stream(ReceiverStream::new(frames).map(Ok::<_, std::convert::Infallible>)))
        .map_err(|_| ApiError::new(wrenn_contract::rest::error::ErrorCode::InternalError, "the stream cannot begin"))
}

fn last_event_id(headers: &HeaderMap, query: WatchEvents) -> Result<Option<EventId>, ApiError> {
    let header = match headers.get("last-event-id") {
        Some(value) => Some(value.to_str().map_err(|_| ApiError::invalid("Last-Event-ID is not text"))?.to_owned()),
        None => None,
    };
    // Browsers send an empty one when they saw none.
    let text = header.or(query.last_event_id).filter(|text| !text.is_empty());
    Ok(text.as_deref().map(events::last_seen).transpose()?)
}

async fn feed(ctx: Arc<Context>, viewer: Viewer, begin: Begin, out: mpsc::Sender<Bytes>, permit: Admitted) {
    let why = tokio::select! {
        // The end of what it was opened with first: nothing may be told after it.
        biased;
        () = credential_watch::lost_viewer(&ctx, &viewer) => ": the credential of this stream was taken away\n\n",
        () = ctx.stop.cancelled() => ": the server ends; connect again with Last-Event-ID\n\n",
        () = out.closed() => "",
        why = talk(&ctx, &viewer, begin, &out) => why,
    };
    drop(permit);
    if !why.is_empty() {
        // A client that reads now has frames before it; one that does not read does not see why.
        let _ = tokio::time::timeout(LAST_WORD_WITHIN, out.send(Bytes::from_static(why.as_bytes()))).await;
    }
}

/// Tells until there is a reason to stop, which is answered as a comment.
async fn talk(ctx: &Arc<Context>, viewer: &Viewer, begin: Begin, out: &mpsc::Sender<Bytes>) -> &'static str {
    let gone = "";
    let mut subscription = match begin {
        Begin::Now(subscription) => {
            if out.send(connected(false)).await.is_err() {
                return gone;
            }
            subscription
        }
        Begin::After(missed) => {
            if out.send(connected(missed.gap)).await.is_err() {
                return gone;
            }
            match catch_up(ctx, viewer, missed.after, out).await {
                Ok(Some(subscription)) => subscription,
                Ok(None) => return gone,
                Err(error) => {
                    tracing::debug!(
                        error = crate::error_chain::chain(&error),
                        "a stream cannot be told what it missed"
                    );
                    return ": what was missed cannot be read now; connect again with Last-Event-ID\n\n";
                }
            }
        }
    };
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + KEEPALIVE_EVERY, KEEPALIVE_EVERY);
    loop {
        let sent = tokio::select! {
            // In any order: neither holds the other up for long.
            item = subscription.next() => match item {
                Some(item) => out.send(shown(&item)).await,
                None => return ": this stream was read too slowly; connect again with Last-Event-ID\n\n",
            },
            _ = beat.tick() => out.send(Bytes::from_static(b": keepalive\n\n")).await,
        };
        if sent.is_err() {
            return gone;
        }
    }
}

/// Tells what was missed, at the pace of the reader, then takes a subscription and tells what happened meanwhile. None: the reader is gone.
async fn catch_up(
    ctx: &Arc<Context>,
    viewer: &Viewer,
    after: i64,
    out: &mpsc::Sender<Bytes>,
) -> Result<Option<Subscription>, ServiceError> {
    let Some(after) = send_until(ctx, viewer, after, i64::MAX, out).await? else { return Ok(None) };
    let subscription = events::subscribe(ctx, viewer).await?;
    let sent = send_until(ctx, viewer, after, subscription.after, out).await?;
    let caught_up = Bytes::from(format!(": {CAUGHT_UP}\n\n"));
    Ok(if sent.is_some() && out.send(caught_up).await.is_ok() { Some(subscription) } else { None })
}

async fn send_until(
    ctx: &Arc<Context>,
    viewer: &Viewer,
    after: i64,
    until: i64,
    out: &mpsc::Sender<Bytes>,
) -> Result<Option<i64>, ServiceError> {
    let mut after = after;
    loop {
        let (items, last) = events::replay(ctx, viewer, after, until).await?;
        if last == after {
            return Ok(Some(after));
        }
        for item in items {
            if out.send(shown(&item)).await.is_err() {
                return Ok(None);
            }
        }
        after = last;
    }
}

fn connected(gap: bool) -> Bytes {
    let mut metadata = BTreeMap::new();
    if gap {
        metadata.insert("gap".to_owned(), "true".to_owned());
    }
    let note = if gap { ": some events since Last-Event-ID are not kept any more\n\n" } else { "" };
    let frame = EventFrame {
        id: None,
        event: EventKind::Connected,
        outcome: None,
        timestamp: Utc::now(),
        team_id: None,
        actor: None,
        resource: None,
        metadata,
        error: None,
        message: Some("connected".to_owned()),
        sandbox: None,
    };
    let mut text = note.to_owned();
    write(&mut text, &frame);
    Bytes::from(text)
}

/// Made once, however many read it.
fn shown(item: &FeedItem) -> Bytes {
    item.frame
        .get_or_init(|| {
            let mut text = String::new();
            write(&mut text, &frame(item));
            Bytes::from(text)
        })
        .clone()
}

fn write(text: &mut String, frame: &EventFrame) {
    // Shapes of ours always serialise; JSON has no line breaks outside of strings, and none inside them.
    let data = serde_json::to_string(frame).unwrap_or_default();
    if let Some(id) = &frame.id {
        text.push_str("id: ");
        text.push_str(id);
        text.push('\n');
    }
    text.push_str("event: ");
    text.push_str(frame.event.as_str());
    text.push_str("\ndata: ");
    text.push_str(&data);
    text.push_str("\n\n");
}

fn frame(item: &FeedItem) -> EventFrame {
    let sandbox = item.sandbox.clone().map(capsule);
    match &item.news.body {
        FeedBody::Event(event) => EventFrame {
            id: Some(event.id.to_string()),
            event: kind(event.kind),
            outcome: event.outcome.map(|outcome| outcome.to_string()),
            timestamp: event.timestamp,
            team_id: Some(event.team.to_string()),
            actor: Some(actor(&event.author)),
            resource: Some(EventResource { id: event.resource_id.clone(), kind: event.resource_type.clone() }),
            metadata: event.metadata.clone(),
            error: event.error.clone(),
            message: None,
            sandbox,
        },
        FeedBody::StateChange { sandbox: id, team, from, to, author, at } => EventFrame {
            id: None,
            event: EventKind::CapsuleStateChanged,
            outcome: None,
            timestamp: *at,
            team_id: Some(team.to_string()),
            actor: Some(actor(author)),
            resource: Some(EventResource { id: id.to_string(), kind: "sandbox".to_owned() }),
            metadata: BTreeMap::from([
                ("from".to_owned(), from.map(|state| state.to_string()).unwrap_or_default()),
                ("to".to_owned(), to.to_string()),
            ]),
            error: None,
            message: None,
            sandbox,
        },
    }
}

fn kind(kind: EventType) -> EventKind {
    match kind {
        EventType::CapsuleCreate => EventKind::CapsuleCreate,
        EventType::CapsulePause => EventKind::CapsulePause,
        EventType::CapsuleResume => EventKind::CapsuleResume,
        EventType::CapsuleDestroy => EventKind::CapsuleDestroy,
        EventType::SnapshotCreate => EventKind::SnapshotCreate,
        EventType::SnapshotDelete => EventKind::SnapshotDelete,
        EventType::HostUp => EventKind::HostUp,
        EventType::HostDown => EventKind::HostDown,
    }
}

/// Published clients know three kinds of actors and fail on any other.
fn actor(author: &Author) -> EventActor {
    let kind = match author.kind {
        ActorType::Host => ActorType::System,
        kind => kind,
    };
    EventActor { kind: kind.to_string(), id: author.id.clone(), name: author.name.clone() }
}
