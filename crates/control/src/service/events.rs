//! Those who watch what happens, while it happens.
//!
//! ```text
//! database --one reader per process--> every seat whose team it is --> stream
//!                                          |full: the seat is taken away, the stream ends and its client comes back
//! ```
//! Whoever comes back names the last event it saw and is told from the database what it missed, before it gets a seat again.
//!
//! Owns: seats, the reader's place. Must never: know what a stream looks like.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{EventId, SandboxId, TeamId, UserId};
use wrenn_domain::limits::{LIVE_FRAMES_MAX, LIVE_HYDRATE_MAX, LIVE_STREAMS_MAX, LIVE_STREAMS_PER_CREDENTIAL_MAX};
use wrenn_domain::secret::SecretHash;
use wrenn_store::StoreError;
use wrenn_store::pg::{Happening, Missed, News, Sandbox};

use super::{Actor, Credential, ServiceError};
use crate::causes::chain;
use crate::context::Context;

/// Who watches.
#[derive(Debug, Clone)]
pub enum Viewer {
    /// A team's own events.
    Member(Arc<Actor>),
    /// All teams'.
    Admin { user: UserId, session: SecretHash },
}

/// Something that happened, as those who watch are shown it.
#[derive(Debug)]
pub struct Story {
    pub news: News,
    /// The sandbox it is about, as it is now.
    pub sandbox: Option<Sandbox>,
    /// What is sent of it, made by the first who sends it.
    pub frame: OnceLock<Bytes>,
}

/// All seats of this process.
#[derive(Default)]
pub struct Watchers {
    inner: Mutex<Inner>,
    /// Something may have happened.
    pub look: Notify,
}

#[derive(Default)]
struct Inner {
    /// The last place told to all seats; none while nobody watches.
    told: Option<i64>,
    seats: HashMap<u64, Place>,
    next: u64,
    /// Streams by credential.
    held: HashMap<String, usize>,
}

struct Place {
    /// None: every team's.
    team: Option<TeamId>,
    to: mpsc::Sender<Arc<Story>>,
}

/// Counts one stream of a credential while it lasts.
pub struct Ticket {
    ctx: Arc<Context>,
    credential: String,
}

/// A place at which news arrives.
pub struct Seat {
    ctx: Arc<Context>,
    number: u64,
    from: mpsc::Receiver<Arc<Story>>,
    /// Everything up to here was told before.
    pub after: i64,
}

impl Viewer {
    /// Whose events it sees; none for all.
    pub fn team(&self) -> Option<TeamId> {
        match self {
            Self::Member(actor) => Some(actor.team),
            Self::Admin { .. } => None,
        }
    }

    fn credential(&self) -> String {
        match self {
            Self::Member(actor) => match &actor.credential {
                Credential::Key(hash) => hash.to_hex(),
                Credential::Session(hash) => hash.to_string(),
            },
            Self::Admin { session, .. } => session.to_string(),
        }
    }
}

/// Takes one of the streams a credential may have.
pub fn admit(ctx: &Arc<Context>, viewer: &Viewer) -> Result<Ticket, ServiceError> {
    let credential = viewer.credential();
    let mut inner = ctx.watchers.lock();
    if inner.held.values().sum::<usize>() >= LIVE_STREAMS_MAX {
        return Err(ServiceError::Busy("too many event streams are open here; try again later".to_owned()));
    }
    let held = inner.held.entry(credential.clone()).or_default();
    if *held >= LIVE_STREAMS_PER_CREDENTIAL_MAX {
        let text = format!(
            "this credential has {LIVE_STREAMS_PER_CREDENTIAL_MAX} event streams open, which is the most; close some"
        );
        return Err(ServiceError::Busy(text));
    }
    *held += 1;
    Ok(Ticket { ctx: ctx.clone(), credential })
}

/// What somebody missed who saw this event last.
pub async fn missed(ctx: &Context, viewer: &Viewer, last: EventId) -> Result<Missed, ServiceError> {
    Ok(ctx.store.live_missed(viewer.team(), last).await?)
}

/// Events after a place, up to another, and the last place that was looked at: the same as `after` when there are no more.
pub async fn replay(
    ctx: &Context,
    viewer: &Viewer,
    after: i64,
    until: i64,
) -> Result<(Vec<Arc<Story>>, i64), ServiceError> {
    let (news, last) = ctx.store.live_replay(viewer.team(), after, until).await?;
    Ok((stories(ctx, news).await, last))
}

/// Takes a seat: from now on everything that happens after [`Seat::after`] arrives at it.
pub async fn sit(ctx: &Arc<Context>, viewer: &Viewer) -> Result<Seat, ServiceError> {
    // While others watch the reader goes on from where they are; else it begins at the newest.
    let head = ctx.store.live_head().await?;
    let (to, from) = mpsc::channel(LIVE_FRAMES_MAX);
    let (number, after) = {
        let mut inner = ctx.watchers.lock();
        if inner.seats.is_empty() {
            inner.told = Some(head);
        }
        let after = *inner.told.get_or_insert(head);
        let number = inner.next;
        inner.next += 1;
        inner.seats.insert(number, Place { team: viewer.team(), to });
        (number, after)
    };
    Ok(Seat { ctx: ctx.clone(), number, from, after })
}

/// Reads what happened since the last look and tells it to everybody who watches.
pub async fn tell(ctx: &Context) -> Result<(), StoreError> {
    loop {
        let Some(told) = ctx.watchers.told() else { return Ok(()) };
        let (news, last) = ctx.store.live_after(told).await?;
        if last == told {
            return Ok(());
        }
        let wanted = ctx.watchers.wanted(news);
        let stories = stories(ctx, wanted).await;
        ctx.watchers.hand_out(&stories, last);
    }
}

/// With the sandboxes they are about. Without them, said aloud, when the database does not answer in time.
async fn stories(ctx: &Context, news: Vec<News>) -> Vec<Arc<Story>> {
    let mut ids: Vec<SandboxId> = news.iter().filter_map(|news| subject(&news.what)).collect();
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
    let story = |news: News| {
        // A row of another team would be a fault of ours; it is not shown.
        let row = subject(&news.what).and_then(|id| rows.get(&id)).filter(|row| row.team == news.what.team());
        let sandbox = row.cloned();
        Arc::new(Story { news, sandbox, frame: OnceLock::new() })
    };
    news.into_iter().map(story).collect()
}

fn subject(what: &Happening) -> Option<SandboxId> {
    match what {
        Happening::Told(event) if event.resource_type == "sandbox" => event.resource_id.parse().ok(),
        Happening::Told(_) => None,
        Happening::Moved { sandbox, .. } => Some(*sandbox),
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock can panic")
    }

    /// Whether anybody watches here.
    pub fn are_any(&self) -> bool {
        !self.lock().seats.is_empty()
    }

    /// Where the reader goes on. The place is given up when the last one has left.
    fn told(&self) -> Option<i64> {
        let mut inner = self.lock();
        if inner.seats.is_empty() {
            inner.told = None;
        }
        inner.told
    }

    /// What of it anybody here may see.
    fn wanted(&self, news: Vec<News>) -> Vec<News> {
        let inner = self.lock();
        let all = inner.seats.values().any(|place| place.team.is_none());
        let teams: std::collections::HashSet<TeamId> = inner.seats.values().filter_map(|place| place.team).collect();
        news.into_iter().filter(|news| all || teams.contains(&news.what.team())).collect()
    }

    fn hand_out(&self, stories: &[Arc<Story>], last: i64) {
        let mut inner = self.lock();
        inner.seats.retain(|_, place| {
            let team = place.team;
            let mut theirs = stories.iter().filter(|story| team.is_none_or(|team| team == story.news.what.team()));
            // One that is full is taken away rather than told a part: its stream ends after what it has.
            theirs.all(|story| place.to.try_send(story.clone()).is_ok())
        });
        inner.told = Some(last);
    }
}

impl Seat {
    /// The next story; none when this seat was too slow.
    pub async fn next(&mut self) -> Option<Arc<Story>> {
        self.from.recv().await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.ctx.watchers.lock().seats.remove(&self.number);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.ctx.watchers.lock();
        if let Some(held) = inner.held.get_mut(&self.credential) {
            *held -= 1;
            if *held == 0 {
                inner.held.remove(&self.credential);
            }
        }
    }
}

/// An id of an event that somebody says it saw last.
pub fn last_seen(text: &str) -> Result<EventId, Failure> {
    text.parse().map_err(|_| {
        Failure::new(FailureKind::Invalid, "the last event's id is none of ours: evt- and 25 characters; leave it out")
    })
}
