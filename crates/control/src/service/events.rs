//! Watching what happens, while it happens. Who comes back names the last event it saw and is given from the database what it missed,
//! before it subscribes again.
//!
//! Must never: know what a stream looks like.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{EventId, SandboxId, TeamId, UserId};
use wrenn_domain::limits::{LIVE_HYDRATE_MAX, LIVE_STREAMS_PER_CREDENTIAL_MAX, LIVE_STREAMS_PER_TEAM_MAX};
use wrenn_domain::secret::SecretHash;
use wrenn_store::StoreError;
use wrenn_store::pg::{FeedBody, FeedEntry, ResumePoint, Sandbox};

use crate::actor::{Actor, Credential};
use crate::context::Context;
use crate::error::ServiceError;
use crate::error_chain::chain;
use crate::state::event_feed::{FeedItem, Subscription};
use crate::state::pool::{Full, Permit};

/// Viewer of events.
#[derive(Debug, Clone)]
pub enum Viewer {
    /// A team's own events.
    Member(Arc<Actor>),
    /// All teams'.
    Admin { user: UserId, session: SecretHash },
}

impl Viewer {
    /// Whose events it sees; none for all.
    pub fn team(&self) -> Option<TeamId> {
        match self {
            Self::Member(actor) => Some(actor.team),
            Self::Admin { .. } => None,
        }
    }

    fn credential(&self) -> Credential {
        match self {
            Self::Member(actor) => actor.credential.clone(),
            Self::Admin { session, .. } => Credential::Session(session.clone()),
        }
    }
}

/// Permits of an event stream.
pub struct Admitted {
    _credential: Permit<Credential>,
    _team: Permit<Option<TeamId>>,
}

/// Takes one of the streams a credential and its team may have.
///
/// # Errors
/// When the credential, its team, or this process has as many open as it may.
pub fn admit(ctx: &Context, viewer: &Viewer) -> Result<Admitted, ServiceError> {
    let busy = |full, whose: &str, most: usize| {
        ServiceError::Busy(match full {
            Full::Total => "too many event streams are open here; try again later".to_owned(),
            Full::Share => format!("this {whose} has {most} event streams open, which is the most; close some"),
        })
    };
    let credential = ctx.permits.feeds.take(viewer.credential());
    let credential = credential.map_err(|full| busy(full, "credential", LIVE_STREAMS_PER_CREDENTIAL_MAX))?;
    let team = ctx.permits.feeds_by_team.take(viewer.team());
    let team = team.map_err(|full| busy(full, "team", LIVE_STREAMS_PER_TEAM_MAX))?;
    Ok(Admitted { _credential: credential, _team: team })
}

/// Finds where a viewer goes on who saw this event last.
///
/// # Errors
/// When the database cannot be asked.
pub async fn missed(ctx: &Context, viewer: &Viewer, last: EventId) -> Result<ResumePoint, ServiceError> {
    Ok(ctx.store.live_missed(viewer.team(), last).await?)
}

/// Events after a place, up to another, and the last place that was looked at: the same as `after` when there are no more.
///
/// # Errors
/// When the database cannot be asked.
pub async fn replay(
    ctx: &Context,
    viewer: &Viewer,
    after: i64,
    until: i64,
) -> Result<(Vec<Arc<FeedItem>>, i64), ServiceError> {
    let (news, last) = ctx.store.live_replay(viewer.team(), after, until).await?;
    Ok((items(ctx, news).await, last))
}

/// Subscribes to everything the viewer may see that happens after [`Subscription::after`].
///
/// # Errors
/// When the database cannot be asked for the newest event.
pub async fn subscribe(ctx: &Context, viewer: &Viewer) -> Result<Subscription, ServiceError> {
    let newest = ctx.store.live_head().await?;
    Ok(ctx.feed.subscribe(viewer.team(), newest))
}

/// Reads what happened since the last look and publishes it to everybody who watches.
///
/// # Errors
/// When the database cannot be read; the next look finds the same.
pub async fn publish(ctx: &Context) -> Result<(), StoreError> {
    loop {
        let Some(position) = ctx.feed.position() else { return Ok(()) };
        let (news, last) = ctx.store.live_after(position).await?;
        if last == position {
            return Ok(());
        }
        let items = items(ctx, ctx.feed.wanted(news)).await;
        ctx.feed.publish(&items, last);
    }
}

/// With the sandboxes they are about. Without them, said aloud, when the database does not answer in time.
async fn items(ctx: &Context, news: Vec<FeedEntry>) -> Vec<Arc<FeedItem>> {
    let mut ids: Vec<SandboxId> = news.iter().filter_map(|news| subject(&news.body)).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = match ids.is_empty() {
        true => Vec::new(),
        false => match tokio::time::timeout(LIVE_HYDRATE_MAX, ctx.store.sandbox_list_by_id(&ids)).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "events are told without their sandboxes");
                Vec::new()
            }
            Err(_) => Vec::new(),
        },
    };
    let rows: HashMap<SandboxId, Sandbox> = rows.into_iter().map(|row| (row.id, row)).collect();
    let item = |news: FeedEntry| {
        // A row of another team would be a fault of ours; it is not shown.
        let row = subject(&news.body).and_then(|id| rows.get(&id)).filter(|row| row.team == news.body.team());
        let sandbox = row.cloned();
        Arc::new(FeedItem { news, sandbox, frame: OnceLock::new() })
    };
    news.into_iter().map(item).collect()
}

fn subject(what: &FeedBody) -> Option<SandboxId> {
    match what {
        FeedBody::Event(event) if event.resource_type == "sandbox" => event.resource_id.parse().ok(),
        FeedBody::Event(_) => None,
        FeedBody::StateChange { sandbox, .. } => Some(*sandbox),
    }
}

/// An id of an event that somebody says it saw last.
///
/// # Errors
/// When the text is no id of an event.
pub fn last_seen(text: &str) -> Result<EventId, Failure> {
    text.parse().map_err(|_| {
        Failure::new(FailureKind::Invalid, "the last event's id is none of ours: evt- and 25 characters; leave it out")
    })
}
