//! The task that owns one sandbox, from its wish until nothing of it is left.
//!
//! ```text
//! born -> live <-> paused         each is one function that ends with what comes next
//!    \      \------> crashed -> live (booted from its disk)
//!     failed                       any -> over
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wrenn_domain::ids::SandboxId;
use wrenn_vmm::Machine;

use super::ahead::Ahead;
use super::birth::{Begun, BirthError, Body, RESUME, Source, give_birth, last_words, random_token, start};
use super::blanks::Sizes;
use super::capture::{self, After, PAUSE};
use super::command::{Command, answer_captures_when_paused, answer_captures_when_running, refuse};
use super::idle::idle;
use super::registry::{Registry, Running};
use super::report::Phase;
use crate::context::Context;
use crate::faults::Point;
use crate::guest::GuestClient;
use crate::ledger::{Ledger, Step, Wish, settle};
use crate::network::Slot;
use crate::storage::Capture;
use crate::storage::captures::discard;

/// A killed VMM is gone at once unless the kernel is in trouble.
pub(super) const KILL_WAIT: Duration = Duration::from_secs(10);
/// Between two tries to remove what does not go.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Where a task begins.
pub enum Origin {
    /// A wish just taken.
    Wish(Wish),
    /// What a predecessor or a fork left: its ledger, and its machine when that still runs.
    Found(Box<Ledger>, Option<Arc<dyn Machine>>),
}

/// What comes next.
enum Life {
    Born(Wish),
    Live(Box<Body>),
    Paused(Box<Ledger>),
    Crashed(Box<Ledger>),
    /// Nothing is left but the report.
    Failed,
    Over,
}

/// One task's tools.
pub struct Owner {
    pub registry: Arc<Registry>,
    pub id: SandboxId,
    pub commands: mpsc::Receiver<Command>,
    pub delete: CancellationToken,
    /// The way to the guest that was handed out.
    guest: Option<Arc<GuestClient>>,
    /// What is still being made safe on disk after the last start, or given back after a pause.
    settling: Option<tokio::task::JoinHandle<()>>,
    /// Cancelled when the VMM of the last pause is gone, and its files.
    ended: CancellationToken,
}

impl Owner {
    /// Calls to the guest under way break off: it will not even say that it is gone.
    fn hang_up(&mut self) {
        if let Some(guest) = self.guest.take() {
            guest.hang_up();
        }
    }

    pub fn ctx(&self) -> &Arc<Context> {
        &self.registry.ctx
    }

    pub fn dir(&self) -> std::path::PathBuf {
        self.ctx().store.sandbox_dir(self.id)
    }

    fn phase(&self, phase: Phase) {
        self.registry.change(self.id, |report| report.phase = phase);
    }

    /// The answer to a pause or resume that was asked for; operation 0 was nobody's wish.
    fn answer(&self, phase: Phase, operation: u64, failed: Option<(String, &'static str)>) {
        self.registry.change(self.id, |report| {
            report.phase = phase;
            if operation > 0 {
                report.operation = operation;
                (report.operation_error, report.operation_error_code) = failed.unwrap_or_default();
            }
        });
    }

    /// Makes a start outlast a power cut, then lets go of what it started from. The sandbox was handed out already.
    fn settle(&mut self) {
        let (registry, id, dir) = (Arc::clone(&self.registry), self.id, self.dir());
        self.afterwards(async move {
            let settled = tokio::task::spawn_blocking(move || {
                registry.ctx.store.sync_sandbox_dirs()?;
                settle(&dir)?;
                release_captures(&dir);
                Ok::<_, BoxedError>(())
            });
            if let Ok(Err(error)) = settled.await {
                tracing::error!(sandbox = %id, error = &*error as &dyn std::error::Error, "the start of {id} is not safe from a power cut");
            }
        });
    }

    /// Does what nobody waits for, one after another.
    fn afterwards(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let before = self.settling.take();
        self.settling = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            work.await;
        }));
    }

    /// Waits for that: nothing else may be done to its files meanwhile.
    async fn settled(&mut self) {
        if let Some(settling) = self.settling.take() {
            let _ = settling.await;
        }
    }

    /// A promise that cannot be written is said aloud; the state itself is true all the same.
    fn write(&self, ledger: &Ledger) {
        // Others go on with this thread's work while the disk writes.
        if let Err(error) = tokio::task::block_in_place(|| ledger.write(&self.dir())) {
            tracing::error!(sandbox = %self.id, error = &error as &dyn std::error::Error, "the ledger of {} cannot be written", self.id);
        }
    }
}

fn nothing_ends() -> CancellationToken {
    let ended = CancellationToken::new();
    ended.cancel();
    ended
}

/// Starts the task.
pub fn spawn(registry: &Arc<Registry>, id: SandboxId, origin: Origin, commands: mpsc::Receiver<Command>) {
    let delete = registry.delete_token(id);
    let mut owner = Owner {
        registry: Arc::clone(registry),
        id,
        commands,
        delete,
        guest: None,
        settling: None,
        ended: nothing_ends(),
    };
    tokio::spawn(async move {
        let mut life = match origin {
            Origin::Wish(wish) => Life::Born(wish),
            Origin::Found(ledger, machine) => found(&mut owner, *ledger, machine).await,
        };
        loop {
            life = match life {
                Life::Born(wish) => born(&mut owner, wish).await,
                Life::Live(body) => live(&mut owner, *body).await,
                Life::Paused(ledger) => paused(&mut owner, *ledger).await,
                Life::Crashed(ledger) => crashed(&mut owner, *ledger).await,
                Life::Failed => failed(&mut owner).await,
                Life::Over => break,
            };
        }
        owner.registry.gone(id);
        tracing::info!(sandbox = %id, "{id} is gone");
    });
}

async fn born(owner: &mut Owner, wish: Wish) -> Life {
    let id = owner.id;
    let mut begun = Begun::default();
    let born = tokio::select! {
        // A delete wins over a birth that ends at the same moment.
        biased;
        () = owner.delete.cancelled() => None,
        born = give_birth(&owner.registry.ctx, wish, &mut begun) => Some(born),
    };
    match born {
        Some(Ok(body)) => {
            owner.settle();
            Life::Live(Box::new(body))
        }
        Some(Err(error)) => {
            tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "{id} could not be made");
            clear(owner, begun.slot, begun.machine).await;
            let (reason, code) = error.shown();
            owner.registry.change(id, |report| {
                report.phase = Phase::Failed;
                report.reason = reason;
                report.reason_code = code;
            });
            Life::Failed
        }
        None => {
            clear(owner, begun.slot, begun.machine).await;
            Life::Over
        }
    }
}

/// Goes on with what a ledger says; see `recovery.rs` for what that can be.
async fn found(owner: &mut Owner, mut ledger: Ledger, machine: Option<Arc<dyn Machine>>) -> Life {
    if ledger.step == Step::Paused {
        return Life::Paused(Box::new(ledger));
    }
    if ledger.step == Step::Crashed {
        return Life::Crashed(Box::new(ledger));
    }
    let slot = ledger.slot.and_then(|number| owner.ctx().slots.adopt(number).ok());
    let Some(machine) = machine else {
        return end_by_crash(owner, ledger, slot, None, "its VM ended while the host's agent was away").await;
    };
    let netns = slot.as_ref().and_then(|slot| wrenn_linux::netns::Netns::open(slot.netns().name()).ok());
    let (Some(slot), Some(netns)) = (slot, netns) else {
        return end_by_crash(owner, ledger, None, Some(machine), "its network was lost").await;
    };
    let guest = Arc::new(GuestClient::new(Arc::new(netns), &ledger.token));
    // An interrupted capture left it standing still.
    if let Err(error) = machine.resume().await {
        tracing::error!(sandbox = %owner.id, error = &error as &dyn std::error::Error, "the VM of {} does not go on", owner.id);
        return end_by_crash(owner, ledger, Some(slot), Some(machine), "its VM did not go on").await;
    }
    if ledger.step != Step::Ready {
        crate::guest::go_on(&guest, &ledger.lifecycle).await;
        ledger.step = Step::Ready;
        owner.write(&ledger);
    }
    // Also removes what an interrupted resume or pause left; the running sandbox needs none of it.
    owner.settle();
    tracing::info!(sandbox = %owner.id, "{} is taken over", owner.id);
    Life::Live(Box::new(Body { ledger, slot, machine, guest, ahead: Ahead::default() }))
}

/// Hands the sandbox out and does what is asked until it is no longer running.
async fn live(owner: &mut Owner, mut body: Body) -> Life {
    hand_out(owner, &body);
    loop {
        body.ahead.make(&owner.registry.ctx, owner.dir());
        let asked = tokio::select! {
            biased;
            () = owner.delete.cancelled() => {
                clear(owner, Some(body.slot), Some(body.machine)).await;
                return Life::Over;
            }
            () = body.machine.ended() => {
                let why = format!("its VM ended by itself; its console ends with: {}", last_words(&body.machine).await);
                return end_by_crash(owner, body.ledger, Some(body.slot), Some(body.machine), &why).await;
            }
            asked = owner.commands.recv() => asked,
            // Last: a command that comes at the same moment is activity.
            () = idle(&owner.registry, &body) => {
                tracing::info!(sandbox = %owner.id, "{} was idle for {} s; pausing it", owner.id, body.ledger.wish.timeout_sec);
                Some(Command::Pause { operation: 0 })
            }
        };
        match asked {
            Some(Command::Pause { operation }) => match pause(owner, body, operation).await {
                Ok(ledger) => return Life::Paused(Box::new(ledger)),
                Err(still) => body = *still,
            },
            Some(Command::Resume { operation, timeout_sec }) => {
                set_timeout(&mut body.ledger, timeout_sec);
                owner.write(&body.ledger);
                hand_out(owner, &body);
                owner.answer(Phase::Running, operation, None);
            }
            Some(other) => answer_captures_when_running(owner, &body, other).await,
            None => return Life::Over,
        }
    }
}

fn hand_out(owner: &mut Owner, body: &Body) {
    owner.guest = Some(Arc::clone(&body.guest));
    let running = Running { guest: Arc::clone(&body.guest), machine: Arc::clone(&body.machine) };
    owner.registry.set_running(owner.id, Some(running));
    let ledger = &body.ledger;
    owner.registry.change(owner.id, |report| {
        report.phase = Phase::Running;
        report.wish = ledger.wish.clone();
        report.started_at_ms = ledger.started_at_ms;
        report.metadata = ledger.metadata.clone();
        report.reason.clear();
        report.reason_code = "";
    });
}

/// Writes it down and ends its VM; when that does not work it runs on.
async fn pause(owner: &mut Owner, mut body: Body, operation: u64) -> Result<Ledger, Box<Body>> {
    let (id, dir) = (owner.id, owner.dir());
    owner.registry.set_running(id, None);
    owner.phase(Phase::Pausing);
    owner.settled().await;
    body.ledger.step = Step::Pausing;
    body.ledger.generation += 1;
    owner.write(&body.ledger);
    let pid = body.machine.record().process.pid;
    owner.ctx().faults.reach(Point::PauseAsked, Some(pid));
    let place = body.ledger.capture_dir(&dir);
    let written = async {
        let (draft, _) = capture::write_down(owner.ctx(), &body, &dir, &place, After::StandStill, &PAUSE).await?;
        Ok::<_, capture::CaptureError>(draft.commit()?)
    };
    if let Err(error) = written.await {
        tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "{id} could not be paused; it runs on");
        if let Err(stuck) = body.machine.resume().await {
            // Its end is noticed by whoever watches it; it is not ended for this.
            tracing::error!(sandbox = %id, error = &stuck as &dyn std::error::Error, "the VM of {id} does not go on");
        }
        let (text, code) = error.shown();
        body.ledger.step = Step::Ready;
        owner.write(&body.ledger);
        hand_out(owner, &body);
        owner.answer(Phase::Running, operation, Some((text, code)));
        return Err(Box::new(body));
    }
    // From here on the capture is the sandbox, whatever happens.
    owner.ctx().faults.reach(Point::PauseCommitted, Some(pid));
    let Body { mut ledger, slot, machine, .. } = body;
    ledger.step = Step::Paused;
    (ledger.slot, ledger.machine) = (None, None);
    owner.write(&ledger);
    owner.ctx().faults.reach(Point::PauseNoted, Some(pid));
    owner.hang_up();
    // Only a resume waits for its VMM to end, which takes as long as it has memory; and only a removal for its network to come apart.
    let (registry, generation) = (Arc::clone(&owner.registry), ledger.generation);
    owner.ended = CancellationToken::new();
    let ended = owner.ended.clone().drop_guard();
    owner.afterwards(async move {
        stop(&registry.ctx, None, Some(machine)).await;
        registry.ctx.faults.reach(Point::PauseReleased, None);
        release_files(&dir, Some(generation));
        drop(ended);
        stop(&registry.ctx, Some(slot), None).await;
    });
    let (vcpus, memory_mib) = (ledger.wish.vcpus, ledger.wish.memory_mib);
    owner.ctx().blanks.expect(&Sizes { vcpus, memory_mib });
    owner.answer(Phase::Paused, operation, None);
    tracing::info!(sandbox = %id, "{id} is paused");
    Ok(ledger)
}

/// Waits for a resume, a delete, or something to be made of it.
async fn paused(owner: &mut Owner, mut ledger: Ledger) -> Life {
    if ledger.unborn {
        return match come_back(owner, &mut ledger, None).await {
            Ok(life) => life,
            // Nothing is lost with it: its source has all it had.
            Err((text, code)) => {
                clear(owner, None, None).await;
                owner.registry.change(owner.id, |report| {
                    report.phase = Phase::Failed;
                    report.reason = text;
                    report.reason_code = code;
                });
                Life::Failed
            }
        };
    }
    let shown = ledger.wish.clone();
    owner.registry.change(owner.id, |report| {
        report.phase = Phase::Paused;
        report.wish = shown;
    });
    loop {
        let asked = tokio::select! {
            biased;
            () = owner.delete.cancelled() => {
                clear(owner, None, None).await;
                return Life::Over;
            }
            asked = owner.commands.recv() => asked,
        };
        match asked {
            Some(Command::Pause { operation }) => owner.answer(Phase::Paused, operation, None),
            Some(Command::Resume { operation, timeout_sec }) => {
                set_timeout(&mut ledger, timeout_sec);
                match come_back(owner, &mut ledger, Some(operation)).await {
                    Ok(life) => return life,
                    Err((text, code)) => owner.answer(Phase::Paused, operation, Some((text, code))),
                }
            }
            Some(other) => answer_captures_when_paused(owner, &ledger, other).await,
            None => return Life::Over,
        }
    }
}

/// Starts it from its capture, which stays until the guest has confirmed.
async fn come_back(
    owner: &mut Owner,
    ledger: &mut Ledger,
    operation: Option<u64>,
) -> Result<Life, (String, &'static str)> {
    let (id, dir) = (owner.id, owner.dir());
    owner.phase(if ledger.unborn { Phase::Starting } else { Phase::Resuming });
    owner.ended.cancelled().await;
    let mut next = ledger.clone();
    let from = async {
        let capture = Capture::open(&next.capture_dir(&dir))?;
        capture.check(&owner.ctx().maker, &owner.ctx().boot_id)?;
        next.token = random_token()?;
        owner.ctx().faults.reach(Point::ResumeAsked, None);
        Ok(Source::Capture(Box::new(capture)))
    };
    let from = from.await;
    match start_again(owner, next, from).await {
        Ok(Some(body)) => {
            owner.settle();
            hand_out(owner, &body);
            owner.answer(Phase::Running, operation.unwrap_or(0), None);
            tracing::info!(sandbox = %id, "{id} runs again");
            Ok(Life::Live(Box::new(body)))
        }
        Ok(None) => Ok(Life::Over),
        Err(why) => {
            release_files(&dir, Some(ledger.generation));
            owner.write(ledger);
            Err(why)
        }
    }
}

/// A start of one that was there before. None: it was deleted meanwhile, and nothing of it is left.
async fn start_again(
    owner: &mut Owner,
    next: Ledger,
    source: Result<Source, BirthError>,
) -> Result<Option<Body>, (String, &'static str)> {
    let (id, dir) = (owner.id, owner.dir());
    let mut begun = Begun::default();
    let tried = async {
        let _busy = owner.ctx().calm.busy();
        owner.registry.admit_memory(id, next.wish.memory_mib).map_err(|r| (r.to_string(), "no_hosts_available"))?;
        let started = match source {
            Ok(source) => start(owner.ctx(), &dir, next, source, &RESUME, &mut begun).await,
            Err(error) => Err(error),
        };
        started.map_err(|error| {
            tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "{id} does not come back");
            error.shown()
        })
    };
    let outcome = tokio::select! {
        // A delete wins over a start that ends at the same moment.
        biased;
        () = owner.delete.cancelled() => None,
        outcome = tried => Some(outcome),
    };
    match outcome {
        None => {
            clear(owner, begun.slot, begun.machine).await;
            Ok(None)
        }
        Some(Ok(body)) => Ok(Some(body)),
        Some(Err(why)) => {
            stop(owner.ctx(), begun.slot, begun.machine).await;
            Err(why)
        }
    }
}

/// Gives back all but the disk and notes what happened.
async fn end_by_crash(
    owner: &mut Owner,
    mut ledger: Ledger,
    slot: Option<Slot>,
    machine: Option<Arc<dyn Machine>>,
    why: &str,
) -> Life {
    tracing::warn!(sandbox = %owner.id, "{} crashed: {why}", owner.id);
    owner.registry.set_running(owner.id, None);
    owner.hang_up();
    stop(owner.ctx(), slot, machine).await;
    owner.settled().await;
    ledger.step = Step::Crashed;
    (ledger.slot, ledger.machine) = (None, None);
    why.clone_into(&mut ledger.crash);
    owner.write(&ledger);
    // A memory of an earlier moment must never meet the disk of a later one.
    release_captures(&owner.dir());
    let _ = std::fs::remove_file(owner.dir().join("memory"));
    Life::Crashed(Box::new(ledger))
}

/// Its disk is kept: it can boot from it again, or be deleted.
async fn crashed(owner: &mut Owner, ledger: Ledger) -> Life {
    let why = ledger.crash.clone();
    let show = |owner: &Owner| {
        owner.registry.change(owner.id, |report| {
            report.phase = Phase::Crashed;
            report.reason =
                format!("the capsule crashed: {why}. Its disk is kept: resume boots from it, delete removes it");
            report.reason_code = "agent_error";
        });
    };
    show(owner);
    loop {
        let asked = tokio::select! {
            biased;
            () = owner.delete.cancelled() => {
                clear(owner, None, None).await;
                return Life::Over;
            }
            asked = owner.commands.recv() => asked,
        };
        match asked {
            Some(Command::Resume { operation, timeout_sec }) => {
                let mut next = ledger.clone();
                set_timeout(&mut next, timeout_sec);
                match boot_again(owner, next).await {
                    Ok(Life::Live(body)) => {
                        owner.settle();
                        hand_out(owner, &body);
                        owner.answer(Phase::Running, operation, None);
                        return Life::Live(body);
                    }
                    Ok(other) => return other,
                    Err((text, code)) => {
                        show(owner);
                        owner.answer(Phase::Crashed, operation, Some((text, code)));
                    }
                }
            }
            Some(Command::Pause { operation }) => {
                owner.answer(
                    Phase::Crashed,
                    operation,
                    Some(("the capsule is not running".to_owned(), "invalid_state")),
                );
            }
            Some(other) => refuse(other, "the capsule has crashed; resume it first"),
            None => return Life::Over,
        }
    }
}

/// Boots from the disk. The ledger says crashed until the guest has confirmed, so that a kill leaves it what it is.
async fn boot_again(owner: &mut Owner, mut next: Ledger) -> Result<Life, (String, &'static str)> {
    owner.phase(Phase::Resuming);
    next.memory_checksum = 0;
    let source = random_token().map(|token| {
        next.token = token;
        Source::Disk
    });
    let body = start_again(owner, next, source).await?;
    Ok(body.map_or(Life::Over, |body| Life::Live(Box::new(body))))
}

/// Nothing of it is left; its report stays until it is deleted.
async fn failed(owner: &mut Owner) -> Life {
    loop {
        tokio::select! {
            biased;
            () = owner.delete.cancelled() => return Life::Over,
            asked = owner.commands.recv() => match asked {
                Some(Command::Pause { operation } | Command::Resume { operation, .. }) => {
                    let text = "the capsule was never made; create a new one".to_owned();
                    owner.answer(Phase::Failed, operation, Some((text, "invalid_state")));
                }
                Some(other) => refuse(other, "the capsule was never made"),
                None => return Life::Over,
            },
        }
    }
}

fn set_timeout(ledger: &mut Ledger, timeout_sec: Option<u32>) {
    if let Some(timeout_sec) = timeout_sec {
        ledger.wish.timeout_sec = timeout_sec;
    }
}

async fn clear(owner: &mut Owner, slot: Option<Slot>, machine: Option<Arc<dyn Machine>>) {
    owner.hang_up();
    owner.settled().await;
    let registry = &owner.registry;
    registry.set_running(owner.id, None);
    mark_deleting(registry, owner.id);
    stop(owner.ctx(), slot, machine).await;
    remove_files(registry, owner.id).await;
}

/// From here on a successor only clears up.
fn mark_deleting(registry: &Registry, id: SandboxId) {
    let dir = registry.ctx.store.sandbox_dir(id);
    if let Ok(mut ledger) = Ledger::read(&dir, id) {
        ledger.step = Step::Deleting;
        if let Err(error) = ledger.write(&dir) {
            tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "cannot note that {id} is being deleted");
        }
    }
}

/// Ends a VM and takes its network apart.
pub async fn stop(ctx: &Context, slot: Option<Slot>, machine: Option<Arc<dyn Machine>>) {
    if let Some(machine) = machine {
        if let Err(error) = machine.kill(KILL_WAIT).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a VMM does not end");
        }
        let _ = std::fs::remove_dir_all(machine.record().run_dir);
    }
    if let Some(slot) = slot {
        let number = slot.number();
        drop(slot);
        ctx.slots.discard(number).await;
    }
}

/// What only a running sandbox needs, and captures other than `kept`.
fn release_files(dir: &std::path::Path, kept: Option<u64>) {
    for name in ["disk", "memory"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let kept = kept.map(|generation| crate::ledger::capture_dir(dir, generation));
    release_captures_but(dir, kept.as_deref());
}

pub(super) fn release_captures(dir: &std::path::Path) {
    release_captures_but(dir, None);
}

pub(super) fn release_captures_but(dir: &std::path::Path, kept: Option<&std::path::Path>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with("capture-") || Some(path.as_path()) == kept {
            continue;
        }
        if let Err(error) = discard(&path) {
            tracing::error!(error = &error as &dyn std::error::Error, "an old capture does not go");
        }
    }
}

/// A VMM whose start was interrupted is found by the files it has open.
async fn remove_files(registry: &Registry, id: SandboxId) {
    let mut pause = RETRY_MIN;
    loop {
        let outcome = async {
            super::recovery::kill_users(&registry.ctx, &registry.ctx.store.sandbox_dir(id)).await;
            registry.ctx.store.remove_sandbox_dir(id)
        };
        let Err(error) = outcome.await else { break };
        // A start that was given up may just have been making one: the next try finds it.
        if pause > RETRY_MIN {
            tracing::error!(sandbox = %id, error = &error as &dyn std::error::Error, "the files of {id} do not go; trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    let _ = std::fs::remove_dir_all(registry.ctx.run_dir.join(id.to_string()));
}
