//! What is made ahead of time because it takes long: how much of it follows what was asked for lately. None costs time and is never
//! wrong.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::birth::BirthError;
use crate::context::Context;

/// As many are in stock as were asked for within this time.
const BURST: Duration = Duration::from_secs(30);
/// Between two looks at what is no longer wanted.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After a failure nothing is made for this long: whoever wants one then finds out himself.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Kinds whose use is remembered; above it the one not asked for longest is forgotten.
const KINDS_MAX: usize = 64;

/// Something that can be in stock.
pub trait Ware: Sized + Send + 'static {
    /// What it is for.
    type Kind: Clone + Send + Sync;
    /// Tells kinds apart.
    type Key: Ord + Clone + Send;
    /// For the log.
    const WHAT: &'static str;
    /// Asked for within this time, there is at least one in stock.
    const WARM_FOR: Duration;

    fn key(kind: &Self::Kind) -> Self::Key;
    /// Whether this kind can still be made.
    fn is_there(kind: &Self::Kind) -> bool;
    /// Whether it can still be used.
    fn is_alive(&self) -> bool;
    /// Makes one; an error leaves nothing behind.
    fn make<'a>(ctx: &'a Context, kind: &'a Self::Kind) -> BoxFuture<'a, Result<Self, BirthError>>;
    /// Removes it and all it has.
    fn discard(self, ctx: &Context) -> BoxFuture<'_, ()>;
}

struct Use<W: Ware> {
    kind: W::Kind,
    asked: VecDeque<Instant>,
    ready: Vec<W>,
}

/// The stock.
pub struct Stock<W: Ware> {
    max: usize,
    uses: Mutex<BTreeMap<W::Key, Use<W>>>,
    news: Notify,
}

impl<W: Ware> Stock<W> {
    /// At most `max` at once; 0 switches it off.
    pub fn new(max: usize) -> Self {
        Self { max, uses: Mutex::default(), news: Notify::new() }
    }

    /// Says that this kind will be wanted.
    pub fn expect(&self, kind: &W::Kind) {
        self.note(&mut self.lock(), kind);
        self.news.notify_one();
    }

    /// One of this kind, if there is one. Counts as asking for more of them.
    pub fn take(&self, kind: &W::Kind) -> Option<W> {
        let mut uses = self.lock();
        self.note(&mut uses, kind);
        self.news.notify_one();
        let ready = &mut uses.get_mut(&W::key(kind))?.ready;
        // One that died while it waited stays for the keeper, who clears up.
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

    /// What is no longer wanted, and what is to be made next; whether there is some of it left.
    fn plan(&self) -> (Vec<W>, Option<(W::Kind, bool)>) {
        let mut uses = self.lock();
        let mut surplus = Vec::new();
        let mut room = self.max;
        let mut missing = None;
        for used in by_latest(&mut uses) {
            let wanted = wanted::<W>(&used.asked, Instant::now()).min(room);
            let wanted = if W::is_there(&used.kind) { wanted } else { 0 };
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

    fn put(&self, kind: &W::Kind, ware: W) -> Option<W> {
        match self.lock().get_mut(&W::key(kind)) {
            Some(used) => {
                used.ready.push(ware);
                None
            }
            None => Some(ware),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<W::Key, Use<W>>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one asked for last comes first: it gets its share of the stock before the others.
fn by_latest<W: Ware>(uses: &mut BTreeMap<W::Key, Use<W>>) -> Vec<&mut Use<W>> {
    let mut all: Vec<&mut Use<W>> = uses.values_mut().collect();
    all.sort_by_key(|used| std::cmp::Reverse(used.asked.back().copied()));
    all
}

fn wanted<W: Ware>(asked: &VecDeque<Instant>, now: Instant) -> usize {
    let lately = asked.iter().filter(|at| now.duration_since(**at) < BURST).count();
    let warm = asked.back().is_some_and(|at| now.duration_since(*at) < W::WARM_FOR);
    lately.max(usize::from(warm))
}

/// Removes what is no longer wanted; what is to be made next.
async fn look<W: Ware>(ctx: &Context, stock: impl Fn(&Context) -> &Stock<W>) -> Option<(W::Kind, bool)> {
    let (surplus, missing) = stock(ctx).plan();
    for ware in surplus {
        ware.discard(ctx).await;
    }
    missing
}

/// Keeps a stock as it is wanted, for as long as the agent runs.
pub async fn keep<W: Ware>(ctx: Arc<Context>, stock: impl Fn(&Context) -> &Stock<W> + Send) {
    loop {
        let Some((_, in_stock)) = look(&ctx, &stock).await else {
            let _ = tokio::time::timeout(LOOK_EVERY, stock(&ctx).news.notified()).await;
            continue;
        };
        ctx.calm.come(in_stock).await;
        let Some((kind, _)) = look(&ctx, &stock).await else { continue };
        match W::make(&ctx, &kind).await {
            Ok(ware) => {
                if let Some(unwanted) = stock(&ctx).put(&kind, ware) {
                    unwanted.discard(&ctx).await;
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no {} can be made ahead of time now",
                    W::WHAT
                );
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spares::Spare;

    #[test]
    fn the_stock_follows_what_was_asked_for_lately() {
        let now = Instant::now() + Spare::WARM_FOR * 2;
        let ago = |secs: &[u64]| secs.iter().map(|s| now - Duration::from_secs(*s)).collect::<VecDeque<_>>();
        for (asked, expected) in [
            (ago(&[]), 0),
            (ago(&[3]), 1),
            (ago(&[25, 20, 3, 1]), 4),
            (ago(&[100, 90, 5]), 1),
            (ago(&[599]), 1),
            (ago(&[601]), 0),
        ] {
            assert_eq!(wanted::<Spare>(&asked, now), expected, "{asked:?}");
        }
    }
}
