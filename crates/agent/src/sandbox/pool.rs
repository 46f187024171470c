//! Pools of what is made ahead of time because it takes long: how much of it there is follows what was asked for lately. An empty
//! pool costs time and is never wrong.

use crate::failure::cause;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::error::StartError;
use crate::blocking::blocking;
use crate::context::Context;
use crate::mutex::lock;

/// Items are kept for as many takers as there were within this time.
const BURST: Duration = Duration::from_secs(30);
/// Between two checks what is no longer wanted.
const CHECK_EVERY: Duration = Duration::from_secs(15);
/// After a failure nothing is made for this long: who wants an item then meets the cause and reports it.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Kinds whose use is remembered; above it the one not asked for longest is forgotten.
const KINDS_MAX: usize = 64;

/// Something that can be made before it is asked for.
pub trait Poolable: Sized + Send + 'static {
    /// Purpose of an item.
    type Kind: Clone + Send + Sync + 'static;
    /// Tells kinds apart.
    type Key: Ord + Clone + Send + 'static;
    /// Names an item in the log.
    const WHAT: &'static str;
    /// For so long after it was last asked for, a kind has at least one item.
    const WARM_FOR: Duration;

    /// Returns the key of a kind.
    fn key(kind: &Self::Kind) -> Self::Key;
    /// Whether items of this kind can still be made. May block for a moment.
    fn can_be_made(kind: &Self::Kind) -> bool;
    /// Whether an item can still be used.
    fn is_alive(&self) -> bool;
    /// Makes an item; an error leaves nothing behind.
    fn make<'a>(ctx: &'a Context, kind: &'a Self::Kind) -> BoxFuture<'a, Result<Self, StartError>>;
    /// Removes an item and all it has.
    fn discard(self, ctx: &Context) -> BoxFuture<'_, ()>;
}

struct Use<W: Poolable> {
    kind: W::Kind,
    asked: VecDeque<Instant>,
    ready: Vec<W>,
}

/// Items made ahead of time, by kind.
pub struct Pool<W: Poolable> {
    max: usize,
    uses: Mutex<BTreeMap<W::Key, Use<W>>>,
    changed: Notify,
}

impl<W: Poolable> Pool<W> {
    /// Makes an empty pool of at most `max` items; 0 switches it off.
    pub fn new(max: usize) -> Self {
        Self { max, uses: Mutex::default(), changed: Notify::new() }
    }

    /// Notes that this kind will be wanted.
    pub fn expect(&self, kind: &W::Kind) {
        self.note(&mut self.uses(), kind);
        self.changed.notify_one();
    }

    /// Counts the items that wait.
    #[cfg(test)]
    pub fn ready(&self) -> usize {
        self.uses().values().map(|used| used.ready.len()).sum()
    }

    /// Takes an item of this kind, if there is one. Counts as asking for more of them.
    pub fn take(&self, kind: &W::Kind) -> Option<W> {
        let mut uses = self.uses();
        self.note(&mut uses, kind);
        self.changed.notify_one();
        let ready = &mut uses.get_mut(&W::key(kind))?.ready;
        // One that died while it waited stays for the maintainer, who clears up.
        let alive = ready.iter().position(W::is_alive)?;
        Some(ready.swap_remove(alive))
    }

    fn note(&self, uses: &mut BTreeMap<W::Key, Use<W>>, kind: &W::Kind) {
        if self.max == 0 {
            return;
        }
        let new = || Use { kind: kind.clone(), asked: VecDeque::new(), ready: Vec::new() };
        let asked = &mut uses.entry(W::key(kind)).or_insert_with(new).asked;
        asked.push_back(Instant::now());
        // More than can be kept says nothing more.
        while asked.len() > self.max {
            asked.pop_front();
        }
    }

    /// Takes out what is no longer wanted; also returns what is to be made next and whether there is some of it left.
    fn plan(&self) -> (Vec<W>, Option<(W::Kind, bool)>) {
        let mut uses = self.uses();
        let mut surplus = Vec::new();
        let mut room = self.max;
        let mut missing = None;
        for used in by_latest(&mut uses) {
            let wanted = wanted::<W>(&used.asked, Instant::now()).min(room);
            let wanted = if W::can_be_made(&used.kind) { wanted } else { 0 };
            let (alive, dead) = used.ready.drain(..).partition(W::is_alive);
            used.ready = alive;
            surplus.extend::<Vec<W>>(dead);
            while used.ready.len() > wanted {
                surplus.extend(used.ready.pop());
            }
            if used.ready.len() < wanted && missing.is_none() {
                missing = Some((used.kind.clone(), !used.ready.is_empty()));
            }
            room -= wanted;
        }
        uses.retain(|_, used| !used.ready.is_empty() || wanted::<W>(&used.asked, Instant::now()) > 0);
        while uses.len() > KINDS_MAX {
            let Some(oldest) = uses.iter().min_by_key(|(_, used)| used.asked.back().copied()).map(|(k, _)| k.clone())
            else {
                break;
            };
            surplus.extend(uses.remove(&oldest).into_iter().flat_map(|used| used.ready));
        }
        (surplus, missing)
    }

    fn put(&self, kind: &W::Kind, item: W) -> Option<W> {
        match self.uses().get_mut(&W::key(kind)) {
            Some(used) => {
                used.ready.push(item);
                None
            }
            None => Some(item),
        }
    }

    fn uses(&self) -> MutexGuard<'_, BTreeMap<W::Key, Use<W>>> {
        lock(&self.uses)
    }
}

/// Sorts uses so that the one asked for last comes first: it gets its share of the room before the others.
fn by_latest<W: Poolable>(uses: &mut BTreeMap<W::Key, Use<W>>) -> Vec<&mut Use<W>> {
    let mut all: Vec<&mut Use<W>> = uses.values_mut().collect();
    all.sort_by_key(|used| std::cmp::Reverse(used.asked.back().copied()));
    all
}

fn wanted<W: Poolable>(asked: &VecDeque<Instant>, now: Instant) -> usize {
    let lately = asked.iter().filter(|at| now.duration_since(**at) < BURST).count();
    let warm = asked.back().is_some_and(|at| now.duration_since(*at) < W::WARM_FOR);
    lately.max(usize::from(warm))
}

/// Removes what is no longer wanted; returns what is to be made next, and whether there is some of it left.
async fn tidy_up<W: Poolable>(ctx: &Context, pool: &Arc<Pool<W>>) -> Option<(W::Kind, bool)> {
    let its = Arc::clone(pool);
    let (surplus, missing) = blocking(move || its.plan()).await;
    for item in surplus {
        item.discard(ctx).await;
    }
    missing
}

/// Keeps a pool as full as it is wanted, for as long as the agent runs.
pub async fn maintain<W: Poolable>(ctx: Arc<Context>, pool: Arc<Pool<W>>) {
    loop {
        let Some((_, has_some)) = tidy_up(&ctx, &pool).await else {
            let _ = tokio::time::timeout(CHECK_EVERY, pool.changed.notified()).await;
            continue;
        };
        ctx.start_load.wait_idle(has_some).await;
        let Some((kind, _)) = tidy_up(&ctx, &pool).await else { continue };
        match W::make(&ctx, &kind).await {
            Ok(item) => {
                if let Some(unwanted) = pool.put(&kind, item) {
                    unwanted.discard(&ctx).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = cause(&error), "no {} can be made ahead of time now", W::WHAT);
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::warm_vms::WarmVm;

    #[test]
    fn a_pool_follows_what_was_asked_for_lately() {
        let now = Instant::now() + WarmVm::WARM_FOR * 2;
        let ago = |secs: &[u64]| secs.iter().map(|s| now - Duration::from_secs(*s)).collect::<VecDeque<_>>();
        for (asked, expected) in [
            (ago(&[]), 0),
            (ago(&[3]), 1),
            (ago(&[25, 20, 3, 1]), 4),
            (ago(&[100, 90, 5]), 1),
            (ago(&[599]), 1),
            (ago(&[601]), 0),
        ] {
            assert_eq!(wanted::<WarmVm>(&asked, now), expected, "{asked:?}");
        }
    }
}
