//! Memories of templates: each image is booted once per size, left to settle, and written down; sandboxes then start where it was.
//!
//! Made in the background, one after another: ahead of time in the sizes the operator names, else on first use, while the first
//! request boots. A memory that cannot be loaded here any more (another VMM, another image) is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use wrenn_domain::ids::SandboxId;
use wrenn_linux::process::cpu_ticks;
use wrenn_vmm::Machine;

use super::birth::{self, Begun, BirthError, Body, Source, random_token, start};
use super::blanks::Sizes;
use super::capture::{self, CaptureError};
use super::runner::stop;
use crate::context::Context;
use crate::ledger::{Ledger, Wish};
use crate::storage::captures::discard;
use crate::storage::{Capture, Image, StorageError};

/// Sizes waiting to be made at most; a wish beyond that boots and asks again.
const QUEUE_MAX: usize = 64;
/// Guests that start at the same time: more would only make each other slow.
const BIRTHS_PER_CORE: usize = 4;
/// A guest has settled when it used less than this share of one processor...
const SETTLED_PERCENT: u64 = 10;
/// ...in so many looks in a row...
const SETTLED_LOOKS: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// ...and is taken as it is after this.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Memories kept on the disk at most, all templates and sizes together; a typical one takes 300 MiB. For one more, the one not used
/// longest goes: its next sandbox boots.
const MEMORIES_MAX: usize = 32;
/// After a failure the same size is not tried again for this long.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// One memory that can be made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    image: String,
    vcpus: u32,
    memory_mib: u32,
}

/// What is wanted, and the turnstile for starting guests.
pub struct Templates {
    wanted: Mutex<BTreeSet<Size>>,
    /// Found good since the agent started (checked once, not at each create), with their last use.
    good: Mutex<BTreeMap<PathBuf, Instant>>,
    news: Notify,
    pub(super) births: Semaphore,
}

impl Default for Templates {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            wanted: Mutex::default(),
            good: Mutex::default(),
            news: Notify::new(),
            births: Semaphore::new(cores * BIRTHS_PER_CORE),
        }
    }
}

impl Templates {
    /// The memory of an image in this size; when there is none it is asked for.
    pub(super) fn memory_of(&self, ctx: &Context, image: &Image, vcpus: u32, memory_mib: u32) -> Option<Capture> {
        let size = Size { image: image.name.clone(), vcpus, memory_mib };
        let place = place(ctx, image, &size);
        if let Ok(capture) = Capture::open(&place) {
            if self.is_good(ctx, &place, &capture) {
                return Some(capture);
            }
            tracing::info!(template = %image.name, "the memory of {} does not fit this host any more", image.name);
        }
        self.want(size);
        None
    }

    fn is_good(&self, ctx: &Context, place: &Path, capture: &Capture) -> bool {
        if let Some(used) = self.good.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place) {
            *used = Instant::now();
            return true;
        }
        if let Err(error) = capture.check(&ctx.maker, &ctx.boot_id) {
            tracing::warn!(place = %place.display(), error = &error as &dyn std::error::Error, "a template's memory cannot be used");
            return false;
        }
        self.good.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned(), Instant::now());
        true
    }

    /// Those that go so that there is room for one more of at most `max`: not used longest, first those not used at all.
    fn surplus(&self, mut places: Vec<PathBuf>, max: usize) -> Vec<PathBuf> {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        places.sort_by_key(|place| good.get(place).copied());
        places.truncate((places.len() + 1).saturating_sub(max));
        for place in &places {
            good.remove(place);
        }
        places
    }

    fn want(&self, size: Size) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.len() < QUEUE_MAX {
            wanted.insert(size);
            self.news.notify_one();
        }
    }

    fn next(&self) -> Option<Size> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }
}

fn place(ctx: &Context, image: &Image, size: &Size) -> PathBuf {
    let version = image.version.get(..16).unwrap_or(&image.version);
    ctx.store.template_dir(&format!("{}-{version}-{}c-{}m", image.name, size.vcpus, size.memory_mib))
}

/// Makes what is wanted, for as long as the agent runs.
pub async fn make_templates(ctx: Arc<Context>) {
    remove_old(&ctx);
    for image in ctx.images.list() {
        for &memory_mib in &ctx.config.prepare_mib {
            // Asking for it is what puts it on the list.
            if let Some(capture) = ctx.templates.memory_of(&ctx, &image, 1, memory_mib) {
                expect(&ctx, &capture);
            }
        }
    }
    let mut failed_at: BTreeMap<Size, Instant> = BTreeMap::new();
    loop {
        let Some(size) = ctx.templates.next() else {
            ctx.templates.news.notified().await;
            continue;
        };
        if failed_at.get(&size).is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            continue;
        }
        let Ok(image) = ctx.images.get(&size.image) else { continue };
        if ctx.templates.memory_of(&ctx, &image, size.vcpus, size.memory_mib).is_some() {
            continue;
        }
        match make(&ctx, &image, &size).await {
            Ok(capture) => {
                failed_at.remove(&size);
                expect(&ctx, &capture);
                tracing::info!(template = %size.image, vcpus = size.vcpus, memory_mib = size.memory_mib,
                    "{} has its memory for {} vCPU and {} MiB", size.image, size.vcpus, size.memory_mib);
            }
            Err(error) => {
                tracing::error!(template = %size.image, error = &error as &dyn std::error::Error, "the memory of a template could not be made");
                failed_at.insert(size.clone(), Instant::now());
            }
        }
        // Looking at it found it missing and asked again.
        ctx.templates.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&size);
    }
}

/// Who can be created will be, and be paused and come back.
fn expect(ctx: &Context, capture: &Capture) {
    ctx.spares.expect(capture);
    ctx.blanks.expect(&Sizes::of(&capture.manifest));
}

/// Removes memories of images that were replaced, and what an interrupted agent left half-made.
fn remove_old(ctx: &Context) {
    let known: Vec<String> = ctx
        .images
        .list()
        .iter()
        .map(|image| format!("{}-{}-", image.name, image.version.get(..16).unwrap_or(&image.version)))
        .collect();
    for entry in std::fs::read_dir(ctx.store.template_dir("")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let half_made = name.ends_with(".new") || name.ends_with(".gone");
        if !half_made && known.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let removed = if half_made {
            std::fs::remove_dir_all(entry.path()).map_err(|e| e.to_string())
        } else {
            discard(&entry.path()).map_err(|e| e.to_string())
        };
        if let Err(error) = removed {
            tracing::error!(%error, %name, "an old template's memory does not go");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("its guest did not start")]
    Birth(#[from] BirthError),
    #[error("it could not be written down")]
    Capture(#[from] CaptureError),
    #[error("its files could not be kept")]
    Storage(#[from] StorageError),
}

async fn make(ctx: &Arc<Context>, image: &Arc<Image>, size: &Size) -> Result<Capture, MakeError> {
    ctx.store.admit()?;
    let place = place(ctx, image, size);
    discard(&place)?;
    let memories = std::fs::read_dir(ctx.store.template_dir("")).into_iter().flatten().flatten();
    for old in ctx.templates.surplus(memories.map(|entry| entry.path()).collect(), MEMORIES_MAX) {
        tracing::info!(place = %old.display(), "a template's memory makes room for another");
        discard(&old)?;
    }
    let id = SandboxId::from_uuid(uuid::Uuid::new_v4());
    let dir = ctx.store.making_dir().join(id.to_string());
    std::fs::create_dir_all(&dir).map_err(|source| StorageError::File { act: "create", path: dir.clone(), source })?;
    let wish = Wish {
        id,
        template: image.name.clone(),
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        disk_mib: u32::try_from(image.bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX),
        timeout_sec: 0,
        default_user: String::new(),
        default_env: BTreeMap::new(),
        snapshot: None,
    };
    let mut begun = Begun::default();
    let made = async {
        let ledger = Ledger::begin(wish, random_token()?);
        // What is interrupted here is simply made again: no step of it is named.
        let (source, steps) = (Source::Image(Arc::clone(image)), birth::Steps::default());
        let body = start(ctx, &dir, ledger, source, &steps, &mut begun).await?;
        let written = write(ctx, &body, &dir, &place).await;
        stop(ctx, Some(body.slot), Some(body.machine)).await;
        written
    };
    let outcome = made.await;
    stop(ctx, begun.slot, begun.machine).await;
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::error!(error = &error as &dyn std::error::Error, "what a template's memory was made in does not go");
    }
    outcome
}

async fn write(ctx: &Arc<Context>, body: &Body, dir: &Path, place: &Path) -> Result<Capture, MakeError> {
    settle(&body.machine).await;
    let (draft, _) =
        capture::write_down(ctx, body, dir, place, capture::After::StandStill, &capture::Steps::default()).await?;
    let capture = draft.commit()?;
    tracing::debug!(bytes = capture.bytes_used()?, "a template's memory is written");
    Ok(capture)
}

/// Waits until the guest has nothing left to do after its boot.
async fn settle(machine: &Arc<dyn Machine>) {
    let pid = machine.record().process.pid;
    let quiet = async {
        let mut in_a_row = 0;
        let mut before = cpu_ticks(pid);
        while in_a_row < SETTLED_LOOKS {
            tokio::time::sleep(LOOK_EVERY).await;
            let (Some(then), Some(now)) = (before, cpu_ticks(pid)) else { return };
            // Ticks are hundredths of a second.
            let percent = (now - then) * 1000 / u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(1);
            in_a_row = if percent < SETTLED_PERCENT { in_a_row + 1 } else { 0 };
            before = Some(now);
        }
    };
    let _ = tokio::time::timeout(SETTLE_MAX, quiet).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_longest_makes_room() {
        let templates = Templates::default();
        let places: Vec<PathBuf> = (0..5).map(|number| PathBuf::from(format!("/t/{number}"))).collect();
        let now = Instant::now();
        for (place, age) in [(0, 30), (2, 10), (3, 20), (4, 40)] {
            templates.good.lock().unwrap().insert(places[place].clone(), now - Duration::from_secs(age));
        }
        assert_eq!(templates.surplus(places.clone(), 6), Vec::<PathBuf>::new());
        assert_eq!(templates.surplus(places.clone(), 4), [places[1].clone(), places[4].clone()]);
        assert!(!templates.good.lock().unwrap().contains_key(&places[4]), "made again, it is checked again");
    }
}
