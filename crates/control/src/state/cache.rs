//! A bounded map whose entries are good for a fixed time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// A cache of at most `entries_max` values, each good for `age_max` after it was put in.
#[derive(Debug)]
pub(crate) struct TimedCache<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
    age_max: Duration,
    entries_max: usize,
}

#[derive(Debug)]
struct Entry<V> {
    since: Instant,
    value: V,
}

impl<K: Eq + Hash, V: Clone> TimedCache<K, V> {
    /// Makes an empty cache.
    pub(crate) fn new(age_max: Duration, entries_max: usize) -> Self {
        Self { entries: Mutex::default(), age_max, entries_max }
    }

    /// Finds a value that is still good.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let entries = lock(&self.entries);
        entries.get(key).filter(|entry| self.is_good(entry)).map(|entry| entry.value.clone())
    }

    /// Puts a value in, good from now on.
    pub(crate) fn put(&self, key: K, value: V) {
        self.insert(&mut lock(&self.entries), key, value);
    }

    /// Finds a good value, or puts in the one `make` returns: callers at once get the same one.
    pub(crate) fn get_or_put(&self, key: K, make: impl FnOnce() -> V) -> V {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(&key).filter(|entry| self.is_good(entry)) {
            return entry.value.clone();
        }
        let value = make();
        self.insert(&mut entries, key, value.clone());
        value
    }

    /// Finds a good value. When there is none the caller is to find one out, and others get what `meanwhile` makes of the value that is
    /// too old (none: never known) until it is put in.
    pub(crate) fn get_or_begin(&self, key: K, meanwhile: impl FnOnce(Option<V>) -> V) -> Option<V> {
        let mut entries = lock(&self.entries);
        let before = entries.get(&key);
        if let Some(entry) = before.filter(|entry| self.is_good(entry)) {
            return Some(entry.value.clone());
        }
        let value = meanwhile(before.map(|entry| entry.value.clone()));
        self.insert(&mut entries, key, value);
        None
    }

    /// Forgets one value.
    pub(crate) fn remove(&self, key: &K) {
        lock(&self.entries).remove(key);
    }

    /// Forgets every value for which `keep` is false.
    pub(crate) fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        lock(&self.entries).retain(|key, entry| keep(key, &entry.value));
    }

    fn is_good(&self, entry: &Entry<V>) -> bool {
        entry.since.elapsed() < self.age_max
    }

    /// A full cache drops what is too old, and everything when that is not enough: all of it can be found out again.
    fn insert(&self, entries: &mut HashMap<K, Entry<V>>, key: K, value: V) {
        if entries.len() >= self.entries_max && !entries.contains_key(&key) {
            entries.retain(|_, entry| self.is_good(entry));
            if entries.len() >= self.entries_max {
                entries.clear();
            }
        }
        entries.insert(key, Entry { since: Instant::now(), value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn callers_at_once_get_one_value_and_an_old_one_is_made_anew() {
        let cache = TimedCache::new(LONG, 10);
        assert_eq!((cache.get_or_put("a", || 1), cache.get_or_put("a", || 2), cache.get(&"a")), (1, 1, Some(1)));
        let never = TimedCache::new(Duration::ZERO, 10);
        assert_eq!((never.get_or_put("a", || 1), never.get_or_put("a", || 2), never.get(&"a")), (1, 2, None));
    }

    #[test]
    fn one_caller_finds_out_and_the_others_get_what_was_known_before() {
        let cache = TimedCache::new(LONG, 10);
        assert_eq!(cache.get_or_begin("a", |before: Option<Option<u32>>| before.flatten()), None, "find it out");
        assert_eq!(cache.get_or_begin("a", |_| Some(9)), Some(None), "somebody does");
        cache.put("a", Some(5));
        assert_eq!(cache.get_or_begin("a", |_| None), Some(Some(5)));
        let aged = TimedCache::new(Duration::ZERO, 10);
        aged.put("a", Some(5));
        assert_eq!(aged.get_or_begin("a", |before| before.flatten()), None);
        assert_eq!(lock(&aged.entries)["a"].value, Some(5), "the old value stands until there is a new one");
    }

    #[test]
    fn a_full_cache_stays_within_its_bound_and_takes_what_is_new() {
        let cache = TimedCache::new(LONG, 3);
        for key in 0..10 {
            cache.put(key, key);
            assert!(lock(&cache.entries).len() <= 3);
            assert_eq!(cache.get(&key), Some(key));
        }
        cache.put(9, 90);
        assert_eq!(cache.get(&9), Some(90));
    }
}
