//! Events whose other half is still to come: renames of drafts, and entries announced before their own event was read.
//!
//! Uploads take their name by renaming a hidden draft. Clients see what that means (made and written, or written) and
//! never the draft.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use wrenn_domain::limits::WATCHED_DIRECTORIES_MAX;
use wrenn_linux::inotify::{AddWatchFlags, InotifyEvent};

use super::event::EventKind;
use crate::disk::DraftName;

/// Drafts seen leaving their hidden name whose new name was not seen yet; a pair of events stands close together.
const DRAFTS_MAX: usize = 64;

/// Cookies of renames away from a draft's name.
#[derive(Default)]
pub(super) struct Drafts(VecDeque<(u32, DraftName)>);

impl Drafts {
    /// Translates an event for clients; `None` for a draft's comings and goings.
    pub fn meaning(&mut self, event: &InotifyEvent, name: &OsStr) -> Option<Vec<EventKind>> {
        if let Some(draft) = DraftName::of(name) {
            if event.mask.contains(AddWatchFlags::IN_MOVED_FROM) {
                if self.0.len() == DRAFTS_MAX {
                    self.0.pop_front();
                }
                self.0.push_back((event.cookie, draft));
            }
            return None;
        }
        if event.mask.contains(AddWatchFlags::IN_MOVED_TO)
            && let Some(at) = self.0.iter().position(|(cookie, _)| *cookie == event.cookie)
        {
            return self.0.remove(at).map(|(_, draft)| match draft {
                DraftName::New => vec![EventKind::Create, EventKind::Write],
                DraftName::Replacing => vec![EventKind::Write],
            });
        }
        EventKind::of(event.mask).map(|kind| vec![kind])
    }
}

/// Names in new directories already announced, whose own event may still be on its way.
#[derive(Default)]
pub(super) struct Announced(HashSet<(u64, PathBuf)>);

impl Announced {
    /// Notes that a watcher heard of this entry.
    pub fn add(&mut self, watcher: u64, below: PathBuf) {
        if self.0.len() < WATCHED_DIRECTORIES_MAX {
            self.0.insert((watcher, below));
        }
    }

    /// Whether the client heard of this creation already. Anything else that happens to the name ends the question.
    pub fn settles(&mut self, watcher: u64, child: &Path, kinds: &[EventKind]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        match kinds {
            [EventKind::Create] => self.0.remove(&(watcher, child.to_owned())),
            [EventKind::Remove | EventKind::Rename] => {
                self.0.remove(&(watcher, child.to_owned()));
                false
            }
            _ => false,
        }
    }

    /// Forgets what one watcher heard.
    pub fn forget_watcher(&mut self, id: u64) {
        self.0.retain(|(watcher, _)| *watcher != id);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
