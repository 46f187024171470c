//! The processes there are: running ones by pid and tag, and the last few that ended.
//!
//! A place and a tag are reserved before a process is started, so that neither can be given away twice.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;
use wrenn_domain::limits::{GUEST_PROCESSES_MAX, PROCESS_ENDED_KEPT, PROCESSES_ENDED_BYTES_MAX, PROCESSES_ENDED_MAX};

use super::running::Process;

/// How callers name a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Pid(u32),
    Tag(String),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    running: HashMap<u32, Arc<Process>>,
    /// Tags of running processes and of reservations.
    tags: HashMap<String, Option<u32>>,
    reserved: usize,
    /// Oldest first.
    ended: VecDeque<Ended>,
    /// Somebody will come by for the oldest.
    swept: bool,
}

#[derive(Debug)]
struct Ended {
    at: Instant,
    process: Arc<Process>,
}

/// Why no place was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full,
    TagTaken,
}

/// A place and a tag for a process to be. Given back when dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    table: &'a Table,
    tag: Option<String>,
}

impl Table {
    /// A place for one more, with this tag.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn reserve(&self, tag: Option<String>) -> Result<Reservation<'_>, Refused> {
        let mut inner = self.lock();
        if inner.running.len() + inner.reserved >= GUEST_PROCESSES_MAX {
            return Err(Refused::Full);
        }
        if let Some(tag) = &tag {
            if inner.tags.contains_key(tag) {
                return Err(Refused::TagTaken);
            }
            inner.tags.insert(tag.clone(), None);
        }
        inner.reserved += 1;
        Ok(Reservation { table: self, tag })
    }

    /// The running process of that name.
    pub fn running(&self, selector: &Selector) -> Option<Arc<Process>> {
        self.lock().running(selector)
    }

    /// The running process of that name, else the one that ended last.
    pub fn running_or_ended(&self, selector: &Selector) -> Option<Arc<Process>> {
        let mut inner = self.lock();
        inner.forget_old();
        let named = |ended: &&Ended| match selector {
            Selector::Pid(pid) => ended.process.pid == *pid,
            Selector::Tag(tag) => ended.process.tag.as_ref() == Some(tag),
        };
        inner.running(selector).or_else(|| Some(inner.ended.iter().rev().find(named)?.process.clone()))
    }

    /// All that run, by pid.
    pub fn list(&self) -> Vec<Arc<Process>> {
        let mut list: Vec<_> = self.lock().running.values().cloned().collect();
        list.sort_unstable_by_key(|process| process.pid);
        list
    }

    /// The process is over; its output stays for a while. To be called before its pid is freed.
    pub fn end(self: &Arc<Self>, process: &Arc<Process>) {
        let mut inner = self.lock();
        inner.running.remove(&process.pid);
        if let Some(tag) = &process.tag {
            inner.tags.remove(tag);
        }
        inner.ended.push_back(Ended { at: Instant::now(), process: process.clone() });
        inner.forget_old();
        if !std::mem::replace(&mut inner.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// The process was started.
    pub fn fill(mut self, process: &Arc<Process>) {
        let mut inner = self.table.lock();
        if let Some(tag) = self.tag.take() {
            inner.tags.insert(tag, Some(process.pid));
        }
        inner.running.insert(process.pid, process.clone());
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut inner = self.table.lock();
        inner.reserved -= 1;
        if let Some(tag) = &self.tag {
            inner.tags.remove(tag);
        }
    }
}

impl Inner {
    fn running(&self, selector: &Selector) -> Option<Arc<Process>> {
        let pid = match selector {
            Selector::Pid(pid) => *pid,
            Selector::Tag(tag) => (*self.tags.get(tag)?)?,
        };
        self.running.get(&pid).cloned()
    }

    fn forget_old(&mut self) {
        let bytes = |ended: &VecDeque<Ended>| ended.iter().map(|e| e.process.output.held_bytes()).sum::<usize>();
        while let Some(oldest) = self.ended.front()
            && (oldest.at.elapsed() >= PROCESS_ENDED_KEPT
                || self.ended.len() > PROCESSES_ENDED_MAX
                || bytes(&self.ended) > PROCESSES_ENDED_BYTES_MAX)
        {
            self.ended.pop_front();
        }
    }
}

/// Forgets what nobody asks for, until nothing is left.
async fn sweep(table: Weak<Table>) {
    loop {
        tokio::time::sleep(PROCESS_ENDED_KEPT).await;
        let Some(table) = table.upgrade() else { return };
        let mut inner = table.lock();
        inner.forget_old();
        if inner.ended.is_empty() {
            inner.swept = false;
            return;
        }
    }
}
