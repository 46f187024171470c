//! Pools of permits with two levels: a total, and a share for each party (an address, a credential, a team, a capsule).
//!
//! ```text
//! take: a permit or a refusal now    wait: a permit within a time    take_or_evict: the longest idle holder gives way
//! ```
//! One party can use up its own share and never the pool. Must never: know what is counted.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// Pool of permits, counted by party.
pub struct Pool<K> {
    total_max: usize,
    share_max: usize,
    inner: Mutex<Inner<K>>,
    /// Notified when a permit comes back.
    freed: Notify,
}

struct Inner<K> {
    used: usize,
    by_party: HashMap<K, usize>,
    holders: HashMap<u64, Holder<K>>,
    /// Holders that do nothing now, the longest idle first.
    idle: BTreeMap<u64, u64>,
    next: u64,
}

/// Holder of a permit that may have to give way.
struct Holder<K> {
    party: K,
    /// Pieces of work under way.
    busy: usize,
    /// Position among the idle ones, while nothing is under way.
    idle: Option<u64>,
    evicted: CancellationToken,
}

/// Bound that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All parties together.
    Total,
    /// This party.
    Share,
}

/// Permit of a party. Dropping it gives it back.
pub struct Permit<K: Eq + Hash + Clone> {
    pool: Arc<Pool<K>>,
    party: K,
    /// How many it stands for.
    weight: usize,
    /// Number of the holder, of a permit that may be taken back, and how it hears of that.
    holder: Option<(u64, CancellationToken)>,
}

/// Mark that the holder of a permit is at work, until it is dropped.
pub(crate) struct Busy<K: Eq + Hash + Clone> {
    pool: Arc<Pool<K>>,
    holder: Option<u64>,
}

impl<K: Eq + Hash + Clone> Pool<K> {
    /// Makes a pool of so many permits, of which one party gets a share at most.
    pub(crate) fn new(total_max: usize, share_max: usize) -> Arc<Self> {
        let inner =
            Inner { used: 0, by_party: HashMap::new(), holders: HashMap::new(), idle: BTreeMap::new(), next: 0 };
        Arc::new(Self { total_max, share_max, inner: Mutex::new(inner), freed: Notify::new() })
    }

    /// Takes a permit if there is one for the party now.
    pub(crate) fn take(self: &Arc<Self>, party: K) -> Result<Permit<K>, Full> {
        self.take_many(party, 1)
    }

    /// Takes a permit that stands for `weight` ones.
    pub(crate) fn take_many(self: &Arc<Self>, party: K, weight: usize) -> Result<Permit<K>, Full> {
        lock(&self.inner).count(&party, weight, self.total_max, self.share_max)?;
        Ok(Permit { pool: self.clone(), party, weight, holder: None })
    }

    /// Waits for a permit of the party.
    pub(crate) async fn wait(self: &Arc<Self>, party: K, longest: Duration) -> Result<Permit<K>, Full> {
        self.wait_many(party, 1, longest).await
    }

    /// Waits for a permit that stands for `weight` ones.
    pub(crate) async fn wait_many(
        self: &Arc<Self>,
        party: K,
        weight: usize,
        longest: Duration,
    ) -> Result<Permit<K>, Full> {
        let until = tokio::time::Instant::now() + longest;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Registered before the look, so that a permit that comes back in between is noticed.
            freed.as_mut().enable();
            let full = match self.take_many(party.clone(), weight) {
                Ok(permit) => return Ok(permit),
                Err(full) => full,
            };
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(full);
            }
        }
    }

    /// Takes a permit whose holder is asked to give way while it is idle and others need it. When the share is full the longest idle
    /// holder of the same party is asked, when the pool is full the longest idle of all; the permit is counted at once.
    pub(crate) fn take_or_evict(self: &Arc<Self>, party: K) -> Result<Permit<K>, Full> {
        let mut inner = lock(&self.inner);
        loop {
            match inner.count(&party, 1, self.total_max, self.share_max) {
                Ok(()) => break,
                Err(full) => inner.evict(full, &party).ok_or(full)?,
            }
        }
        let holder = inner.enter(party.clone());
        Ok(Permit { pool: self.clone(), party, weight: 1, holder: Some(holder) })
    }

    /// Permits in use.
    #[cfg(test)]
    fn used(&self) -> usize {
        lock(&self.inner).used
    }
}

impl<K: Eq + Hash + Clone> Inner<K> {
    fn count(&mut self, party: &K, weight: usize, total_max: usize, share_max: usize) -> Result<(), Full> {
        let own = self.by_party.get(party).copied().unwrap_or(0);
        if own.saturating_add(weight) > share_max {
            return Err(Full::Share);
        }
        if self.used.saturating_add(weight) > total_max {
            return Err(Full::Total);
        }
        self.used += weight;
        self.by_party.insert(party.clone(), own + weight);
        Ok(())
    }

    fn release(&mut self, party: &K, weight: usize) {
        self.used -= weight;
        let Some(count) = self.by_party.get_mut(party) else { return };
        *count -= weight;
        if *count == 0 {
            self.by_party.remove(party);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn enter(&mut self, party: K) -> (u64, CancellationToken) {
        let (holder, position, evicted) = (self.number(), self.number(), CancellationToken::new());
        self.idle.insert(position, holder);
        self.holders.insert(holder, Holder { party, busy: 0, idle: Some(position), evicted: evicted.clone() });
        (holder, evicted)
    }

    /// Asks the longest idle holder to go and frees what it was counted for; none when nobody is idle.
    fn evict(&mut self, full: Full, party: &K) -> Option<()> {
        let fits = |holder: &u64| full == Full::Total || self.holders.get(holder).is_some_and(|h| h.party == *party);
        let (position, holder) = self.idle.iter().find(|(_, holder)| fits(holder)).map(|(p, h)| (*p, *h))?;
        self.idle.remove(&position);
        let gone = self.holders.remove(&holder)?;
        gone.evicted.cancel();
        self.release(&gone.party, 1);
        Some(())
    }

    fn begin(&mut self, holder: u64) {
        let Some(found) = self.holders.get_mut(&holder) else { return };
        found.busy += 1;
        if let Some(position) = found.idle.take() {
            self.idle.remove(&position);
        }
    }

    fn end(&mut self, holder: u64) {
        let position = self.number();
        let Some(found) = self.holders.get_mut(&holder) else { return };
        found.busy -= 1;
        if found.busy == 0 {
            found.idle = Some(position);
            self.idle.insert(position, holder);
        }
    }
}

impl<K: Eq + Hash + Clone> Permit<K> {
    /// Changes how many it stands for.
    pub(crate) fn resize(&mut self, weight: usize) -> Result<(), Full> {
        let mut inner = lock(&self.pool.inner);
        match weight.checked_sub(self.weight) {
            Some(more) => inner.count(&self.party, more, self.pool.total_max, self.pool.share_max)?,
            None => inner.release(&self.party, self.weight - weight),
        }
        self.weight = weight;
        drop(inner);
        self.pool.freed.notify_waiters();
        Ok(())
    }

    /// Marks the holder as at work: it is not asked to give way meanwhile.
    pub(crate) fn busy(&self) -> Busy<K> {
        let holder = self.holder.as_ref().map(|(holder, _)| *holder);
        if let Some(holder) = holder {
            lock(&self.pool.inner).begin(holder);
        }
        Busy { pool: self.pool.clone(), holder }
    }

    /// Returns when the holder is to give way; never for a permit that is not taken back.
    pub(crate) async fn evicted(&self) {
        match &self.holder {
            Some((_, evicted)) => evicted.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Busy<K> {
    fn drop(&mut self) {
        if let Some(holder) = self.holder {
            lock(&self.pool.inner).end(holder);
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut inner = lock(&self.pool.inner);
        match &self.holder {
            // An evicted one was given back when it was asked to go.
            Some((holder, _)) => {
                let Some(gone) = inner.holders.remove(holder) else { return };
                if let Some(position) = gone.idle {
                    inner.idle.remove(&position);
                }
                inner.release(&gone.party, 1);
            }
            None => inner.release(&self.party, self.weight),
        }
        drop(inner);
        self.pool.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_party_and_all_parties_are_bounded_and_a_dropped_permit_comes_back() {
        let pool = Pool::new(3, 2);
        let first = pool.take("a").expect("free");
        let _second = pool.take("a").expect("free");
        assert_eq!(pool.take("a").err(), Some(Full::Share));
        let other = pool.take("b").expect("free");
        assert_eq!(pool.take("c").err(), Some(Full::Total));
        drop(other);
        drop(first);
        assert!(pool.take("a").is_ok());
        assert_eq!(lock(&pool.inner).by_party.len(), 1, "parties without permits are forgotten");
    }

    #[test]
    fn the_longest_idle_gives_way_and_who_is_at_work_does_not() {
        let pool = Pool::new(4, 2);
        let first = pool.take_or_evict("a").expect("free");
        let second = pool.take_or_evict("a").expect("free");
        let at_work = first.busy();
        let third = pool.take_or_evict("a").expect("the second is idle");
        assert!(first.evicted().now_or_never().is_none() && second.evicted().now_or_never().is_some());
        let third_at_work = third.busy();
        assert_eq!(pool.take_or_evict("a").err(), Some(Full::Share), "nobody of its own is idle");
        // The evicted one ends later; it was given back already.
        drop(second);
        assert_eq!(pool.used(), 2);
        drop(at_work);
        let other = [pool.take_or_evict("b").expect("free"), pool.take_or_evict("c").expect("free")];
        let late = pool.take_or_evict("d").expect("the longest idle of all gives way");
        assert!(first.evicted().now_or_never().is_some(), "it was idle before the others came");
        assert!(third.evicted().now_or_never().is_none());
        drop((third_at_work, other, late, first, third));
        assert_eq!(pool.used(), 0);
        let inner = lock(&pool.inner);
        assert!(inner.holders.is_empty() && inner.idle.is_empty() && inner.by_party.is_empty());
    }

    #[test]
    fn a_permit_may_stand_for_many_and_grow_within_its_share() {
        let pool = Pool::new(10, 6);
        let mut bytes = pool.take_many("a", 2).expect("free");
        assert_eq!(bytes.resize(7), Err(Full::Share));
        bytes.resize(6).expect("free");
        let other = pool.take_many("b", 4).expect("free");
        assert_eq!(pool.take("c").err(), Some(Full::Total));
        bytes.resize(0).expect("less is always free");
        assert_eq!(pool.used(), 4);
        drop((bytes, other));
        assert_eq!((pool.used(), lock(&pool.inner).by_party.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_gets_the_permit_that_comes_back_or_hears_why_not() {
        let pool = Pool::new(2, 1);
        let held = pool.take("a").expect("free");
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.wait("a", Duration::from_secs(20)).await.map(drop) }
        });
        // Another party does not wait behind it.
        assert!(pool.wait("b", Duration::ZERO).await.is_ok());
        assert_eq!(pool.wait("a", Duration::from_millis(1)).await.err(), Some(Full::Share));
        drop(held);
        assert_eq!(waiting.await.expect("no panic"), Ok(()));
    }
}
