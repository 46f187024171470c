//! Guests loaded ahead of time. A spare has everything a new sandbox of its capture needs: network, disk, and a VMM that has
//! loaded memory and device state, has run its first command if it is a template's, and stands still. A create takes one, moves its files into the sandbox's directory, and lets
//! it go on.
//!
//! ```text
//! making/<uuid>/{disk,memory,vmm.log}  ->  sandboxes/<id>/{disk,memory,vmm.log}     (renames: the VMM has them open)
//! ```
//! How many there are follows what was asked for lately. None costs time and is never wrong: a create without a spare
//! starts its own VMM. A successor removes those it finds, like everything half-made.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::Notify;
use wrenn_domain::ids::SandboxId;
use wrenn_linux::netns::Netns;
use wrenn_vmm::Machine;

use super::birth::{Begun, BirthError, Source, greet, machine_spec, random_token};
use super::runner::stop;
use crate::context::Context;
use crate::faults::{Faults, Point};
use crate::guest::{self, GuestClient};
use crate::ledger::{Ledger, Wish};
use crate::network::{NetworkError, Slot};
use crate::storage::{Capture, StorageError};

/// Asked for within this time, a capture keeps one spare...
const WARM_FOR: Duration = Duration::from_secs(600);
/// ...and as many as were taken within this.
const BURST: Duration = Duration::from_secs(30);
/// Between two looks at what is no longer wanted.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After a failure nothing is made for this long: creates then find out themselves.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Captures whose use is remembered; above it the one not asked for longest is forgotten.
const CAPTURES_MAX: usize = 64;

/// One guest that waits.
pub struct Spare {
    pub slot: Slot,
    pub machine: Arc<dyn Machine>,
    /// Of one that has rehearsed.
    pub guest: Option<Arc<GuestClient>>,
    dir: PathBuf,
}

/// Place and age: a place can be made anew with other content.
type Key = (PathBuf, i64);

struct Use {
    capture: Capture,
    asked: VecDeque<Instant>,
    ready: Vec<Spare>,
}

/// The stock.
pub struct Spares {
    max: usize,
    uses: Mutex<BTreeMap<Key, Use>>,
    news: Notify,
}

impl Spares {
    /// At most `max` at once; 0 switches them off.
    pub fn new(max: usize) -> Self {
        Self { max, uses: Mutex::default(), news: Notify::new() }
    }

    /// Says that sandboxes of this capture are to be expected.
    pub fn expect(&self, capture: &Capture) {
        self.note(&mut self.lock(), capture);
        self.news.notify_one();
    }

    /// A spare of this capture, if there is one. Counts as asking for more of them.
    pub fn take(&self, capture: &Capture) -> Option<Spare> {
        let mut uses = self.lock();
        self.note(&mut uses, capture);
        let ready = &mut uses.get_mut(&key(capture))?.ready;
        // One whose VMM died while it waited stays for the keeper, who clears up.
        let alive = ready.iter().position(|spare| spare.machine.ended().now_or_never().is_none())?;
        self.news.notify_one();
        Some(ready.swap_remove(alive))
    }

    fn note(&self, uses: &mut BTreeMap<Key, Use>, capture: &Capture) {
        if self.max == 0 {
            return;
        }
        let new = || Use { capture: capture.clone(), asked: VecDeque::new(), ready: Vec::new() };
        let asked = &mut uses.entry(key(capture)).or_insert_with(new).asked;
        asked.push_back(Instant::now());
        // More than can be kept says nothing more.
        while asked.len() > self.max {
            asked.pop_front();
        }
    }

    /// What is no longer wanted, and what is to be made next.
    fn plan(&self) -> (Vec<Spare>, Option<Capture>) {
        let mut uses = self.lock();
        let mut surplus = Vec::new();
        let mut room = self.max;
        let mut missing = None;
        for used in by_latest(&mut uses) {
            let wanted = wanted(&used.asked, Instant::now()).min(room);
            let wanted = if used.capture.is_there() { wanted } else { 0 };
            let (dead, alive) = used.ready.drain(..).partition(|spare| spare.machine.ended().now_or_never().is_some());
            used.ready = alive;
            surplus.extend::<Vec<Spare>>(dead);
            while used.ready.len() > wanted {
                surplus.extend(used.ready.pop());
            }
            if used.ready.len() < wanted && missing.is_none() {
                missing = Some(used.capture.clone());
            }
            room -= wanted;
        }
        uses.retain(|_, used| !used.ready.is_empty() || wanted(&used.asked, Instant::now()) > 0);
        while uses.len() > CAPTURES_MAX {
            let Some(oldest) = uses.iter().min_by_key(|(_, used)| used.asked.back().copied()).map(|(k, _)| k.clone())
            else {
                break;
            };
            surplus.extend(uses.remove(&oldest).into_iter().flat_map(|used| used.ready));
        }
        (surplus, missing)
    }

    fn put(&self, capture: &Capture, spare: Spare) -> Option<Spare> {
        match self.lock().get_mut(&key(capture)) {
            Some(used) => {
                used.ready.push(spare);
                None
            }
            None => Some(spare),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Use>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(capture: &Capture) -> Key {
    (capture.place().to_owned(), capture.manifest.created_at_ms)
}

/// The one asked for last comes first: it gets its share of the stock before the others.
fn by_latest(uses: &mut BTreeMap<Key, Use>) -> Vec<&mut Use> {
    let mut all: Vec<&mut Use> = uses.values_mut().collect();
    all.sort_by_key(|used| std::cmp::Reverse(used.asked.back().copied()));
    all
}

fn wanted(asked: &VecDeque<Instant>, now: Instant) -> usize {
    let lately = asked.iter().filter(|at| now.duration_since(**at) < BURST).count();
    let warm = asked.back().is_some_and(|at| now.duration_since(*at) < WARM_FOR);
    lately.max(usize::from(warm))
}

/// Keeps the stock as it is wanted, for as long as the agent runs.
pub async fn keep_spares(ctx: Arc<Context>) {
    loop {
        let (surplus, missing) = ctx.spares.plan();
        for spare in surplus {
            discard(&ctx, spare).await;
        }
        let Some(capture) = missing else {
            let _ = tokio::time::timeout(LOOK_EVERY, ctx.spares.news.notified()).await;
            continue;
        };
        match make(&ctx, &capture).await {
            Ok(spare) => {
                if let Some(unwanted) = ctx.spares.put(&capture, spare) {
                    discard(&ctx, unwanted).await;
                }
            }
            Err(error) => {
                tracing::warn!(template = %capture.manifest.template, error = &error as &dyn std::error::Error, "no guest can be loaded ahead of time now");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

async fn make(ctx: &Context, capture: &Capture) -> Result<Spare, BirthError> {
    ctx.store.admit()?;
    let _turn = ctx.templates.births.acquire().await.map_err(|_| BirthError::Random)?;
    let name = uuid::Uuid::new_v4().to_string();
    let dir = ctx.store.making_dir().join(&name);
    let mut begun = Begun::default();
    let made = async {
        std::fs::create_dir_all(&dir).map_err(|source| StorageError::File {
            act: "create",
            path: dir.clone(),
            source,
        })?;
        capture.give(&dir.join("memory"), &dir.join("disk"))?;
        let slot = begun.slot.insert(ctx.slots.take().await?);
        let spec = machine_spec(ctx, &dir, capture.manifest.vcpus, capture.manifest.memory_mib, slot)?;
        let machine = Arc::clone(begun.machine.insert(ctx.driver.restore(spec, capture.state()).await?));
        let guest = match is_template(ctx, capture) {
            true => Some(rehearse(ctx, capture, slot, &machine).await?),
            false => None,
        };
        Ok::<_, BirthError>((machine, guest))
    };
    let made = made.await;
    match made {
        Ok((machine, guest)) => {
            let slot = begun.slot.take().ok_or(BirthError::Random)?;
            Ok(Spare { slot, machine, guest, dir })
        }
        Err(error) => {
            stop(ctx, begun.slot, begun.machine).await;
            remove(&dir);
            let _ = std::fs::remove_dir_all(ctx.run_dir.join(&name));
            Err(error)
        }
    }
}

/// What users have made stands still until somebody wants it: its processes are theirs to run.
fn is_template(ctx: &Context, capture: &Capture) -> bool {
    capture.place().starts_with(ctx.store.template_dir(""))
}

/// Lets a template's guest do once what every new sandbox does first, under a name of its own. The sandbox it becomes gets another:
/// that is what makes two copies of one memory different, here as there.
async fn rehearse(
    ctx: &Context,
    capture: &Capture,
    slot: &Slot,
    machine: &Arc<dyn Machine>,
) -> Result<Arc<GuestClient>, BirthError> {
    let manifest = &capture.manifest;
    let wish = Wish {
        id: SandboxId::from_uuid(uuid::Uuid::new_v4()),
        template: manifest.template.clone(),
        vcpus: manifest.vcpus,
        memory_mib: manifest.memory_mib,
        disk_mib: u32::try_from(manifest.disk_bytes >> 20).unwrap_or(u32::MAX),
        timeout_sec: 0,
        default_user: manifest.default_user.clone(),
        default_env: manifest.default_env.clone(),
        snapshot: None,
    };
    let mut ledger = Ledger::begin(wish, random_token()?);
    ledger.workdir.clone_from(&manifest.default_workdir);
    ledger.lifecycle = uuid::Uuid::new_v4().to_string();
    let netns = Arc::new(Netns::open(slot.netns().name()).map_err(NetworkError::from)?);
    let guest = Arc::new(GuestClient::new(netns, &manifest.token));
    machine.resume().await?;
    greet(ctx, &ledger, &Source::Capture(Box::new(capture.clone())), None, &guest, machine).await?;
    guest::rehearse(&guest).await.map_err(|source| BirthError::Guest { console: String::new(), source })?;
    machine.pause().await?;
    Ok(guest)
}

async fn discard(ctx: &Context, spare: Spare) {
    stop(ctx, Some(spare.slot), Some(spare.machine)).await;
    remove(&spare.dir);
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::error!(place = %dir.display(), error = &error as &dyn std::error::Error, "a spare's files do not go");
    }
}

impl Spare {
    /// Makes its files those of the sandbox whose directory this is. The VMM has them open and does not notice.
    pub fn move_into(&self, dir: &Path, run_dir: &Path, faults: &Faults) -> Result<(), StorageError> {
        let rename = |from: &Path, to: &Path| {
            let failed = |source| StorageError::File { act: "move", path: from.to_owned(), source };
            std::fs::rename(from, to).map_err(failed)
        };
        let moved = (|| {
            rename(&self.dir.join("disk"), &dir.join("disk"))?;
            faults.reach(Point::CreateMoved, Some(self.machine.record().process.pid));
            for name in ["memory", "vmm.log"] {
                rename(&self.dir.join(name), &dir.join(name))?;
            }
            rename(&self.machine.record().run_dir, run_dir)
        })();
        if moved.is_ok() {
            self.machine.moved(run_dir.to_owned(), dir.join("memory"));
        }
        // What was not moved is of no use to anybody.
        remove(&self.dir);
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_follows_what_was_asked_for_lately() {
        let now = Instant::now() + WARM_FOR * 2;
        let ago = |secs: &[u64]| secs.iter().map(|s| now - Duration::from_secs(*s)).collect::<VecDeque<_>>();
        for (asked, expected) in [
            (ago(&[]), 0),
            (ago(&[3]), 1),
            (ago(&[25, 20, 3, 1]), 4),
            (ago(&[100, 90, 5]), 1),
            (ago(&[599]), 1),
            (ago(&[601]), 0),
        ] {
            assert_eq!(wanted(&asked, now), expected, "{asked:?}");
        }
    }
}
