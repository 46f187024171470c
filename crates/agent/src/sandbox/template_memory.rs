//! Memories of templates: for each image and size, a capture of a guest that has booted and settled, from which sandboxes start.
//!
//! This is the list of what there is and what is wanted; `template_maker` makes it. A memory that cannot be loaded here any more
//! (another VMM, another image) is not used and is made again.

use crate::failure::cause;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::Notify;

use super::machine::MachineSizes;
use crate::context::Context;
use crate::mutex::lock;
use crate::storage::{Capture, Image};

/// Memories waiting to be made at most; beyond that a create boots and asks again.
const QUEUE_MAX: usize = 64;
/// Hex digits of an image's version in the name of its memories.
const VERSION_SHOWN: usize = 16;

/// Name of a memory that can be made: an image in one size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryKey {
    pub image: String,
    pub sizes: MachineSizes,
}

/// Memories that are wanted, and those known to be good.
#[derive(Default)]
pub struct TemplateMemories {
    wanted: Mutex<BTreeSet<MemoryKey>>,
    /// Paths found good since the agent started (checked once, not at each create), with their last use.
    good: Mutex<BTreeMap<PathBuf, Instant>>,
    changed: Notify,
}

impl TemplateMemories {
    /// Returns the memory of an image in these sizes; when there is none it is asked for. Blocks.
    pub fn get_or_request(&self, ctx: &Context, image: &Image, sizes: MachineSizes) -> Option<Capture> {
        let path = path(ctx, image, sizes);
        if let Ok(capture) = Capture::open(&ctx.store, &path) {
            if self.is_good(ctx, &path, &capture) {
                return Some(capture);
            }
            tracing::info!(template = %image.name, "the memory of {} does not fit this host any more", image.name);
        }
        self.request(MemoryKey { image: image.name.clone(), sizes });
        None
    }

    fn is_good(&self, ctx: &Context, path: &Path, capture: &Capture) -> bool {
        if let Some(used) = lock(&self.good).get_mut(path) {
            *used = Instant::now();
            return true;
        }
        if let Err(error) = capture.check(&ctx.compatibility, &ctx.boot_id) {
            tracing::warn!(path = %path.display(), error = cause(&error), "a template's memory cannot be used");
            return false;
        }
        lock(&self.good).insert(path.to_owned(), Instant::now());
        true
    }

    /// Chooses those of `paths` that go so that there is room for one more of at most `max`: not used longest, first those not used at
    /// all.
    pub fn surplus(&self, mut paths: Vec<PathBuf>, max: usize) -> Vec<PathBuf> {
        let mut good = lock(&self.good);
        paths.sort_by_key(|path| good.get(path).copied());
        paths.truncate((paths.len() + 1).saturating_sub(max));
        for path in &paths {
            good.remove(path);
        }
        paths
    }

    fn request(&self, key: MemoryKey) {
        let mut wanted = lock(&self.wanted);
        if wanted.len() < QUEUE_MAX {
            wanted.insert(key);
            self.changed.notify_one();
        }
    }

    /// Waits for the next memory to be made and takes it off the list.
    pub async fn next(&self) -> MemoryKey {
        loop {
            if let Some(key) = lock(&self.wanted).pop_first() {
                return key;
            }
            self.changed.notified().await;
        }
    }

    /// Takes a memory off the list: it was made, or was found missing only because it was being made.
    pub fn forget_request(&self, key: &MemoryKey) {
        lock(&self.wanted).remove(key);
    }
}

/// Returns where the memory of an image in these sizes lies.
pub fn path(ctx: &Context, image: &Image, sizes: MachineSizes) -> PathBuf {
    ctx.store.template_dir(&format!("{}{}c-{}m", name_prefix(image), sizes.vcpus, sizes.memory_mib))
}

/// Returns what the names of all memories of an image's present version begin with.
pub fn name_prefix(image: &Image) -> String {
    format!("{}-{}-", image.name, image.version.get(..VERSION_SHOWN).unwrap_or(&image.version))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_used_longest_makes_room() {
        let memories = TemplateMemories::default();
        let paths: Vec<PathBuf> = (0..5).map(|number| PathBuf::from(format!("/t/{number}"))).collect();
        let now = Instant::now();
        for (path, age) in [(0, 30), (2, 10), (3, 20), (4, 40)] {
            memories.good.lock().unwrap().insert(paths[path].clone(), now - Duration::from_secs(age));
        }
        assert_eq!(memories.surplus(paths.clone(), 6), Vec::<PathBuf>::new());
        assert_eq!(memories.surplus(paths.clone(), 4), [paths[1].clone(), paths[4].clone()]);
        assert!(!memories.good.lock().unwrap().contains_key(&paths[4]), "made again, it is checked again");
    }
}
