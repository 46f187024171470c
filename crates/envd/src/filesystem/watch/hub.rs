//! The one inotify instance, and who watches what through it.
//!
//! The kernel knows a directory once, however many watchers it has, so a watch descriptor has a list of entries: a
//! watcher and where the directory is below its root. Adding a watch and noting its entry, and forgetting an entry and
//! removing its watch, each happen under the lock: otherwise one watcher's end could take the kernel's watch from
//! another that just came.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use wrenn_domain::limits::{WATCHED_DIRECTORIES_MAX, WATCHERS_MAX};
use wrenn_linux::inotify::{AddWatchFlags, InotifyEvent, Instance, WatchDescriptor};

use super::event::{Event, EventKind, mask};
use super::pending::{Announced, Drafts};
use super::queue::Queue;
use crate::disk::{Actor, DiskError, shown};

/// See the module.
pub(super) struct Hub {
    kernel: Instance,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watchers: HashMap<u64, Watcher>,
    watched: HashMap<WatchDescriptor, Vec<WatchedDir>>,
    /// Entries in all those lists.
    directories: usize,
    next_id: u64,
    drafts: Drafts,
    announced: Announced,
}

struct Watcher {
    actor: Arc<Actor>,
    root: PathBuf,
    recursive: bool,
    queue: Arc<Queue>,
}

impl Watcher {
    fn tell(&self, below: &Path, kinds: &[EventKind]) {
        // A relative name cannot be escaped, so one that is not UTF-8 comes as an absolute path.
        let name = below.to_str().map_or_else(|| shown(&self.root.join(below)), str::to_owned);
        for kind in kinds {
            self.queue.push(Event { name: name.clone(), kind: *kind });
        }
    }
}

/// One directory for one watcher.
struct WatchedDir {
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

/// Work on disk that an event calls for.
pub(super) enum Chore {
    /// A directory came into a watched tree; its watcher hears of it when it is watched.
    Descend { watcher: u64, below: PathBuf },
    /// The kernel dropped events: directories may have come unseen.
    Resume { watcher: u64 },
}

impl Hub {
    /// Makes the instance. [`super::reader::read`] must be run for it.
    ///
    /// # Errors
    /// The kernel has no instance left.
    pub fn new() -> Result<Self, DiskError> {
        let kernel = Instance::new().map_err(DiskError::std("watch", Path::new("anything")))?;
        Ok(Self { kernel, state: Mutex::default() })
    }

    /// Waits for the next events of the kernel; none when all that was on its way has been read.
    ///
    /// # Errors
    /// The instance cannot be read.
    pub async fn read(&self) -> std::io::Result<Vec<InotifyEvent>> {
        let events = self.kernel.read().await?;
        if events.is_empty() {
            // No late event can repeat what was announced.
            self.lock().announced.clear();
        }
        Ok(events)
    }

    /// Ends every watcher's queue: nothing will be heard any more.
    pub fn close_all(&self) {
        self.lock().watchers.values().for_each(|watcher| {
            watcher.queue.lose();
            watcher.queue.close();
        });
    }

    /// Takes a watcher in; it watches nothing yet.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(&self, actor: Arc<Actor>, root: PathBuf, recursive: bool, queue: Arc<Queue>) -> Result<u64, DiskError> {
        let mut state = self.lock();
        if state.watchers.len() >= WATCHERS_MAX {
            let path = shown(&root);
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
        state.announced.forget_watcher(id);
        self.forget(&mut state, |dir| dir.watcher == id);
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
        let watched = state.watched.entry(descriptor).or_default();
        match watched.iter_mut().find(|dir| dir.watcher == id) {
            // The same directory under another name: it was moved, and the old name's end is still to be read.
            Some(dir) => dir.below = below.to_owned(),
            None => {
                watched.push(WatchedDir { watcher: id, below: below.to_owned() });
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
        state.announced.add(id, below);
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

    /// Forgets directories of watchers, and takes the kernel's watch off directories that have none left.
    fn forget(&self, state: &mut State, gone: impl Fn(&WatchedDir) -> bool) {
        let directories = &mut state.directories;
        state.watched.retain(|descriptor, watched| {
            let before = watched.len();
            watched.retain(|dir| !gone(dir));
            *directories -= before - watched.len();
            if watched.is_empty() {
                // The directory itself may be gone, and its watch with it.
                let _ = self.kernel.remove(*descriptor);
            }
            !watched.is_empty()
        });
    }

    /// Hands one event to everyone it concerns, and answers the work on disk it calls for.
    pub fn take(&self, event: &InotifyEvent) -> Vec<Chore> {
        let mut state = self.lock();
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            state.watchers.values().for_each(|watcher| watcher.queue.lose());
            let recursive = state.watchers.iter().filter(|(_, watcher)| watcher.recursive);
            return recursive.map(|(id, _)| Chore::Resume { watcher: *id }).collect();
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            let watched = state.watched.remove(&event.wd).unwrap_or_default();
            state.directories -= watched.len();
            for dir in watched {
                if let Some(watcher) = state.watchers.get(&dir.watcher).filter(|_| dir.below.as_os_str().is_empty()) {
                    // The watched directory itself is gone; nothing more will come.
                    watcher.queue.close();
                }
            }
            return Vec::new();
        }
        let watched: Vec<(u64, PathBuf)> =
            state.watched.get(&event.wd).into_iter().flatten().map(|p| (p.watcher, p.below.clone())).collect();
        match &event.name {
            Some(name) => self.take_named(&mut state, event, name, watched),
            None => {
                for (id, _) in watched.iter().filter(|(_, below)| below.as_os_str().is_empty()) {
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
        watched: Vec<(u64, PathBuf)>,
    ) -> Vec<Chore> {
        let Some(kinds) = state.drafts.meaning(event, name) else { return Vec::new() };
        let is_dir = event.mask.contains(AddWatchFlags::IN_ISDIR);
        let mut chores = Vec::new();
        for (id, below) in watched {
            let child = below.join(name);
            if state.announced.settles(id, &child, &kinds) {
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
                self.forget(state, |dir| dir.watcher == id && dir.below.starts_with(&child));
            }
        }
        chores
    }
}

/// A tree with more directories than one guest may watch.
pub(super) fn too_many(root: &Path) -> DiskError {
    let path = shown(root);
    DiskError::TooMany { path, what: "directories to watch", max: WATCHED_DIRECTORIES_MAX }
}
