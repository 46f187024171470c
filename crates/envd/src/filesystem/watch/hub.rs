//! The one inotify instance, who watches what through it, and the task that reads it.
//!
//! The kernel knows a directory once, however many watchers it has, so a watch descriptor has a list of places: a
//! watcher and where the directory is below its root. Adding a watch and noting its place, and forgetting a place and
//! removing its watch, each happen under the lock: otherwise one watcher's end could take the kernel's watch from
//! another that just came.
//!
//! Uploads take their name by renaming a hidden draft. Clients see what that means (made and written, or written) and
//! never the draft.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use wrenn_domain::limits::{WATCHED_DIRECTORIES_MAX, WATCHERS_MAX};
use wrenn_linux::inotify::{AddWatchFlags, InotifyEvent, Instance, WatchDescriptor};

use super::event::{Event, EventKind, mask};
use super::queue::Queue;
use super::tree::{self, Found};
use crate::disk::{Actor, DiskError, DraftName, go_on};

/// Drafts seen leaving their hidden name whose new name was not seen yet; a pair of events stands close together.
const DRAFTS_MAX: usize = 64;

/// See the module.
pub(super) struct Hub {
    kernel: Instance,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watchers: HashMap<u64, Watcher>,
    places: HashMap<WatchDescriptor, Vec<Place>>,
    /// Places in all those lists.
    directories: usize,
    next_id: u64,
    /// Cookies of renames away from a draft's name.
    drafts: VecDeque<(u32, DraftName)>,
    /// Names in new directories already announced, whose own event may still be on its way.
    announced: HashSet<(u64, PathBuf)>,
}

struct Watcher {
    actor: Arc<Actor>,
    root: PathBuf,
    recursive: bool,
    queue: Arc<Queue>,
}

impl Watcher {
    fn tell(&self, below: &Path, kinds: &[EventKind]) {
        for kind in kinds {
            self.queue.push(Event { name: below.to_string_lossy().into_owned(), kind: *kind });
        }
    }
}

/// One directory for one watcher.
struct Place {
    watcher: u64,
    /// Below the watcher's root; empty for the root.
    below: PathBuf,
}

/// Where a watcher wants its tree watched.
pub(super) struct Ground {
    pub root: PathBuf,
    pub recursive: bool,
    pub actor: Arc<Actor>,
}

/// What has to be done on disk because of an event.
enum Chore {
    /// A directory came into a watched tree; its watcher hears of it when it is watched.
    Descend { watcher: u64, below: PathBuf },
    /// The kernel dropped events: directories may have come unseen.
    Resume { watcher: u64 },
}

impl Hub {
    /// Makes the instance and starts reading it.
    ///
    /// # Errors
    /// The kernel has no instance left.
    pub fn start() -> Result<Arc<Self>, DiskError> {
        let kernel = Instance::new().map_err(DiskError::std("watch", Path::new("anything")))?;
        let hub = Arc::new(Self { kernel, state: Mutex::default() });
        tokio::spawn(read(Arc::clone(&hub)));
        Ok(hub)
    }

    /// Takes a watcher in; it watches nothing yet.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(&self, actor: Arc<Actor>, root: PathBuf, recursive: bool, queue: Arc<Queue>) -> Result<u64, DiskError> {
        let mut state = self.lock();
        if state.watchers.len() >= WATCHERS_MAX {
            let path = root.to_string_lossy().into_owned();
            return Err(DiskError::TooMany { path, what: "watchers beside it", max: WATCHERS_MAX });
        }
        state.next_id += 1;
        let id = state.next_id;
        state.watchers.insert(id, Watcher { actor, root, recursive, queue });
        Ok(id)
    }

    /// Forgets a watcher and all its directories.
    pub fn remove(&self, id: u64) {
        let mut state = self.lock();
        state.watchers.remove(&id);
        state.announced.retain(|(watcher, _)| *watcher != id);
        self.forget(&mut state, |place| place.watcher == id);
    }

    /// Where a watcher's tree is; `None` when it is gone.
    pub fn ground(&self, id: u64) -> Option<Ground> {
        let state = self.lock();
        let watcher = state.watchers.get(&id)?;
        let (root, actor) = (watcher.root.clone(), Arc::clone(&watcher.actor));
        Some(Ground { root, recursive: watcher.recursive, actor })
    }

    /// Watches one directory, named by `path`, which is `below` the watcher's root. Call with the actor's rights.
    /// Answers false when the watcher is gone.
    ///
    /// # Errors
    /// The user may not read it, or there are too many.
    pub fn watch_directory(&self, id: u64, path: &Path, below: &Path) -> Result<bool, DiskError> {
        let mut state = self.lock();
        let Some(root) = state.watchers.get(&id).map(|watcher| watcher.root.clone()) else { return Ok(false) };
        if state.directories >= WATCHED_DIRECTORIES_MAX {
            return Err(too_many(&root));
        }
        let descriptor = match self.kernel.add(path, mask()) {
            // So the kernel says that the user's watches are used up.
            Err(Errno::ENOSPC) => return Err(too_many(&root)),
            other => other.map_err(DiskError::io("watch", &root.join(below)))?,
        };
        let places = state.places.entry(descriptor).or_default();
        match places.iter_mut().find(|place| place.watcher == id) {
            // The same directory under another name: it was moved, and the old name's end is still to be read.
            Some(place) => place.below = below.to_owned(),
            None => {
                places.push(Place { watcher: id, below: below.to_owned() });
                state.directories += 1;
            }
        }
        Ok(true)
    }

    /// Tells a watcher of something that came into its tree and was found by looking.
    pub fn announce(&self, id: u64, below: PathBuf, kinds: &[EventKind]) {
        let mut state = self.lock();
        let Some(watcher) = state.watchers.get(&id) else { return };
        watcher.tell(&below, kinds);
        if state.announced.len() < WATCHED_DIRECTORIES_MAX {
            state.announced.insert((id, below));
        }
    }

    /// Tells a watcher that there are things it will not see.
    pub fn lose(&self, id: u64) {
        if let Some(watcher) = self.lock().watchers.get(&id) {
            watcher.queue.lose();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets places, and takes the kernel's watch off directories that have none left.
    fn forget(&self, state: &mut State, gone: impl Fn(&Place) -> bool) {
        let directories = &mut state.directories;
        state.places.retain(|descriptor, places| {
            let before = places.len();
            places.retain(|place| !gone(place));
            *directories -= before - places.len();
            if places.is_empty() {
                // The directory itself may be gone, and its watch with it.
                let _ = self.kernel.remove(*descriptor);
            }
            !places.is_empty()
        });
    }

    /// Hands one event to everyone it concerns.
    fn take(&self, event: &InotifyEvent) -> Vec<Chore> {
        let mut state = self.lock();
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            state.watchers.values().for_each(|watcher| watcher.queue.lose());
            let recursive = state.watchers.iter().filter(|(_, watcher)| watcher.recursive);
            return recursive.map(|(id, _)| Chore::Resume { watcher: *id }).collect();
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            let places = state.places.remove(&event.wd).unwrap_or_default();
            state.directories -= places.len();
            for place in places {
                if let Some(watcher) = state.watchers.get(&place.watcher).filter(|_| place.below.as_os_str().is_empty())
                {
                    // The watched directory itself is gone; nothing more will come.
                    watcher.queue.close();
                }
            }
            return Vec::new();
        }
        let places: Vec<(u64, PathBuf)> =
            state.places.get(&event.wd).into_iter().flatten().map(|p| (p.watcher, p.below.clone())).collect();
        match &event.name {
            Some(name) => self.take_named(&mut state, event, name, places),
            None => {
                for (id, _) in places.iter().filter(|(_, below)| below.as_os_str().is_empty()) {
                    if let (Some(watcher), Some(kind)) = (state.watchers.get(id), EventKind::of(event.mask)) {
                        watcher.queue.push(Event { name: ".".to_owned(), kind });
                    }
                }
                Vec::new()
            }
        }
    }

    fn take_named(
        &self,
        state: &mut State,
        event: &InotifyEvent,
        name: &OsStr,
        places: Vec<(u64, PathBuf)>,
    ) -> Vec<Chore> {
        let Some(kinds) = state.meaning(event, name) else { return Vec::new() };
        let is_dir = event.mask.contains(AddWatchFlags::IN_ISDIR);
        let mut chores = Vec::new();
        for (id, below) in places {
            let child = below.join(name);
            if state.was_announced(id, &child, &kinds) {
                continue;
            }
            let Some(watcher) = state.watchers.get(&id) else { continue };
            let follows = is_dir && watcher.recursive;
            if follows && kinds == [EventKind::Create] {
                chores.push(Chore::Descend { watcher: id, below: child });
                continue;
            }
            watcher.tell(&child, &kinds);
            if follows && kinds == [EventKind::Rename] {
                // It goes on somewhere else; if that is watched too, its arrival there is an event of its own.
                self.forget(state, |place| place.watcher == id && place.below.starts_with(&child));
            }
        }
        chores
    }

    async fn work_off(self: &Arc<Self>, chore: Chore) {
        let (watcher, below, found) = match chore {
            Chore::Descend { watcher, below } => (watcher, below, Found::Announced),
            Chore::Resume { watcher } => (watcher, PathBuf::new(), Found::Silently),
        };
        let Some(ground) = self.ground(watcher) else { return };
        let hub = Arc::clone(self);
        let walked = go_on(ground.actor, move || tree::watch(&hub, watcher, below, found)).await;
        if let Err(error) = walked {
            tracing::debug!(error = error.message(), "part of a watched tree cannot be watched");
            self.lose(watcher);
        }
    }
}

impl State {
    /// What an event means to clients; `None` for a draft's comings and goings.
    fn meaning(&mut self, event: &InotifyEvent, name: &OsStr) -> Option<Vec<EventKind>> {
        if let Some(draft) = DraftName::of(name) {
            if event.mask.contains(AddWatchFlags::IN_MOVED_FROM) {
                if self.drafts.len() == DRAFTS_MAX {
                    self.drafts.pop_front();
                }
                self.drafts.push_back((event.cookie, draft));
            }
            return None;
        }
        if event.mask.contains(AddWatchFlags::IN_MOVED_TO)
            && let Some(at) = self.drafts.iter().position(|(cookie, _)| *cookie == event.cookie)
        {
            return self.drafts.remove(at).map(|(_, draft)| match draft {
                DraftName::New => vec![EventKind::Create, EventKind::Write],
                DraftName::Replacing => vec![EventKind::Write],
            });
        }
        EventKind::of(event.mask).map(|kind| vec![kind])
    }

    /// Whether the client heard of this creation already. Anything else that happens to the name ends the question.
    fn was_announced(&mut self, id: u64, child: &Path, kinds: &[EventKind]) -> bool {
        if self.announced.is_empty() {
            return false;
        }
        match kinds {
            [EventKind::Create] => self.announced.remove(&(id, child.to_owned())),
            [EventKind::Remove | EventKind::Rename] => {
                self.announced.remove(&(id, child.to_owned()));
                false
            }
            _ => false,
        }
    }
}

/// Reads the instance for as long as envd lives.
async fn read(hub: Arc<Hub>) {
    loop {
        match hub.kernel.read().await {
            // All that was on its way has been read, so no late event can repeat what was announced.
            Ok(events) if events.is_empty() => hub.lock().announced.clear(),
            Ok(events) => {
                for event in &events {
                    for chore in hub.take(event) {
                        hub.work_off(chore).await;
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "inotify cannot be read; watchers hear nothing more");
                hub.lock().watchers.values().for_each(|watcher| {
                    watcher.queue.lose();
                    watcher.queue.close();
                });
                return;
            }
        }
    }
}

/// A tree with more directories than one guest may watch.
pub(super) fn too_many(root: &Path) -> DiskError {
    let path = root.to_string_lossy().into_owned();
    DiskError::TooMany { path, what: "directories to watch", max: WATCHED_DIRECTORIES_MAX }
}

/// Names are compared as the kernel gives them.
pub(super) fn is_draft(name: &OsString) -> bool {
    DraftName::of(name).is_some()
}
