//! From files to a guest that has confirmed who it is: from an image, from a capture, or from the disk of one that crashed.
//! Nothing else starts a VM for a user.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wrenn_contract::guest::{GUEST_MAC, InitDone};
use wrenn_linux::netns::Netns;
use wrenn_vmm::{Frame, Machine, Spec, VmmError};

use super::ahead::Ahead;
use super::blanks::{Filled, Sizes};
use super::report::now_ms;
use crate::context::Context;
use crate::faults::Point;
use crate::guest::{Beacon, Greeting, GuestClient, GuestError, wait_ready};
use crate::ledger::{Ledger, LedgerError, Step, Wish};
use crate::network::{NetworkError, Slot};
use crate::storage::{Capture, Image, StorageError};

/// Bytes of console shown with a failure.
const CONSOLE_SHOWN: usize = 600;
/// Metadata of a sandbox that came back without its memory.
pub const RESUMED_FROM: &str = "resumed_from";
/// Metadata of what runs in it.
pub const KERNEL_VERSION: &str = "kernel_version";

/// Why no sandbox came of it.
#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    #[error("could not prepare the network")]
    Network(#[from] NetworkError),
    #[error("could not prepare the disk")]
    Storage(#[from] StorageError),
    #[error("could not keep the ledger")]
    Ledger(#[from] LedgerError),
    #[error("could not start the VM")]
    Machine(#[from] VmmError),
    #[error("the guest did not become ready; its console ends with: {console}")]
    Guest { console: String, source: GuestError },
    #[error("the VM ended while it was starting; its console ends with: {console}")]
    Ended { console: String },
    #[error("no random numbers to be had")]
    Random,
}

impl BirthError {
    /// Text and code for the user.
    pub fn shown(&self) -> (String, &'static str) {
        match self {
            Self::Storage(
                error @ (StorageError::TooSmall { .. } | StorageError::NoImage(_) | StorageError::NoSnapshot(_)),
            ) => (error.to_string(), "invalid_request"),
            Self::Storage(error @ StorageError::Full { .. }) => (error.to_string(), "no_hosts_available"),
            Self::Storage(error @ StorageError::Foreign(_)) => (error.to_string(), "conflict"),
            Self::Guest { .. } | Self::Ended { .. } => (self.to_string(), "agent_error"),
            _ => (format!("{self}; the host's log has the cause. Try again"), "internal_error"),
        }
    }
}

/// What a sandbox holds on the host while it lives.
pub struct Body {
    pub ledger: Ledger,
    pub slot: Slot,
    pub machine: Arc<dyn Machine>,
    pub guest: Arc<GuestClient>,
    /// For its next capture.
    pub ahead: Ahead,
}

/// Slot and machine as far as they were made; what is set must be given back.
#[derive(Default)]
pub struct Begun {
    pub slot: Option<Slot>,
    pub machine: Option<Arc<dyn Machine>>,
    /// The way to the guest of a machine that ran before.
    pub guest: Option<Arc<GuestClient>>,
}

/// What a guest starts from.
pub enum Source {
    /// A boot from a copy of the image's disk.
    Image(Arc<Image>),
    /// Where another one was at that instant.
    Capture(Box<Capture>),
    /// A boot from the sandbox's own disk, which stays.
    Disk,
}

/// Steps of one kind of start at which a test may interrupt it.
#[derive(Default)]
pub struct Steps {
    linked: Option<Point>,
    loaded: Option<Point>,
    running: Option<Point>,
    greeted: Option<Point>,
    noted: Option<Point>,
}

/// Of a new sandbox.
pub const CREATE: Steps = Steps {
    linked: Some(Point::CreateLinked),
    loaded: Some(Point::CreateLoaded),
    running: Some(Point::CreateRunning),
    greeted: Some(Point::CreateGreeted),
    noted: Some(Point::CreateNoted),
};

/// Of one that was there before.
pub const RESUME: Steps = Steps {
    linked: Some(Point::ResumeLinked),
    loaded: Some(Point::ResumeLoaded),
    running: Some(Point::ResumeRunning),
    greeted: Some(Point::ResumeGreeted),
    noted: Some(Point::ResumeNoted),
};

/// Makes a new sandbox. On failure `begun` tells what there is to clear up.
pub async fn give_birth(ctx: &Context, wish: Wish, begun: &mut Begun) -> Result<Body, BirthError> {
    let _busy = ctx.calm.busy();
    let source = choose(ctx, &wish)?;
    let dir = ctx.store.create_sandbox_dir(wish.id)?;
    let ledger = Ledger::begin(wish, random_token()?);
    ledger.write(&dir)?;
    ctx.faults.reach(Point::CreateBegun, None);
    if let Source::Capture(capture) = &source
        && let Some(spare) = ctx.spares.take(capture)
    {
        let moved = spare.move_into(&dir, &run_dir(ctx, &dir), &ctx.faults);
        *begun = Begun { slot: Some(spare.slot), machine: Some(spare.machine), guest: spare.guest };
        moved?;
    }
    start(ctx, &dir, ledger, source, &CREATE, begun).await
}

/// A snapshot that was asked for; else the template's memory in this size; else its image, while its memory is being made.
fn choose(ctx: &Context, wish: &Wish) -> Result<Source, StorageError> {
    if let Some(id) = &wish.snapshot {
        let place = ctx.store.snapshot_dir(id);
        if !place.exists() {
            return Err(StorageError::NoSnapshot(id.clone()));
        }
        let capture = Capture::open(&place)?;
        capture.check(&ctx.maker, &ctx.boot_id)?;
        return Ok(Source::Capture(Box::new(capture)));
    }
    let image = ctx.images.get(&wish.template)?;
    Ok(match ctx.templates.memory_of(ctx, &image, wish.vcpus, wish.memory_mib) {
        Some(capture) => Source::Capture(Box::new(capture)),
        None => Source::Image(image),
    })
}

/// Starts a guest for this ledger and waits until it has confirmed. The ledger says ready when this returns. What `begun` has
/// already is used: a machine that has loaded this source, with its files in place.
pub async fn start(
    ctx: &Context,
    dir: &Path,
    mut ledger: Ledger,
    source: Source,
    steps: &Steps,
    begun: &mut Begun,
) -> Result<Body, BirthError> {
    let _turn = ctx.templates.births.acquire().await.map_err(|_| BirthError::Random)?;
    if let (Source::Capture(capture), None) = (&source, &begun.machine) {
        let capture = capture.clone();
        tokio::task::spawn_blocking(move || capture.read_ahead());
    }
    let waiting = take_blank(ctx, dir, &source, begun).await;
    let slot = match begun.slot.take() {
        Some(slot) => slot,
        None => ctx.slots.take().await?,
    };
    ledger.slot = Some(slot.number());
    let slot = begun.slot.insert(slot);
    // The namespace is opened anew for the guest's client: the slot itself stays with whoever clears up.
    let netns = Arc::new(Netns::open(slot.netns().name()).map_err(NetworkError::from)?);
    let beacon = match source {
        Source::Capture(_) => None,
        Source::Image(_) | Source::Disk => Some(listen(&netns)?),
    };
    if begun.machine.is_none() {
        lay_out(ctx, dir, &ledger, &source)?;
    }
    inherit(&mut ledger, &source);
    ctx.faults.reach(steps.linked, None);
    let machine = match begun.machine.take() {
        Some(machine) => machine,
        None => machine(ctx, dir, &ledger, &source, slot, waiting).await?,
    };
    begun.machine = Some(Arc::clone(&machine));
    let_go(ctx, dir, &ledger, &source, steps, &machine).await?;
    ledger.machine = Some(machine.record());
    ledger.lifecycle = uuid::Uuid::new_v4().to_string();
    let known = match &source {
        Source::Capture(capture) => capture.manifest.token.clone(),
        Source::Image(_) | Source::Disk => ledger.token.clone(),
    };
    let guest = begun.guest.take().unwrap_or_else(|| Arc::new(GuestClient::new(netns, &known)));
    ledger.step = Step::Ready;
    ledger.unborn = false;
    ledger.crash.clear();
    ledger.started_at_ms = now_ms();
    let done = greet(ctx, &ledger, &source, beacon.as_ref(), &guest, &machine).await?;
    ledger.metadata = metadata(ctx, done, &source);
    ctx.faults.reach(steps.greeted, Some(machine.record().process.pid));
    ledger.hand_out(dir)?;
    ctx.faults.reach(steps.noted, Some(machine.record().process.pid));
    let slot = begun.slot.take().ok_or(BirthError::Random)?;
    begun.machine = None;
    Ok(Body { ledger, slot, machine, guest, ahead: Ahead::default() })
}

/// A VMM that waits for a capture of these sizes; its slot is the sandbox's from then on.
async fn take_blank(ctx: &Context, dir: &Path, source: &Source, begun: &mut Begun) -> Option<Filled> {
    let (Source::Capture(capture), None) = (source, &begun.slot) else { return None };
    let blank = ctx.blanks.take(&Sizes::of(&capture.manifest))?;
    let (slot, waiting) = blank.move_into(ctx, dir, &run_dir(ctx, dir)).await?;
    begun.slot = Some(slot);
    Some(waiting)
}

async fn machine(
    ctx: &Context,
    dir: &Path,
    ledger: &Ledger,
    source: &Source,
    slot: &Slot,
    waiting: Option<Filled>,
) -> Result<Arc<dyn Machine>, BirthError> {
    if let (Source::Capture(capture), Some(waiting)) = (source, waiting) {
        match waiting.restore(dir, capture.state()).await {
            Ok(machine) => return Ok(machine),
            // One that is started for this capture says better what is wrong, or works.
            Err(error) => {
                tracing::warn!(sandbox = %ledger.wish.id, error = &error as &dyn std::error::Error, "a VMM that waited does not take its guest")
            }
        }
    }
    let spec = machine_spec(ctx, dir, ledger.wish.vcpus, ledger.wish.memory_mib, slot)?;
    Ok(match source {
        Source::Image(_) | Source::Disk => ctx.driver.boot(spec).await?,
        Source::Capture(capture) => ctx.driver.restore(spec, capture.state()).await?,
    })
}

fn listen(netns: &Netns) -> Result<Beacon, BirthError> {
    Beacon::listen(netns).map_err(|source| BirthError::Guest { console: String::new(), source })
}

/// Puts disk and memory base into the sandbox's directory; what an interrupted try left there goes first.
fn lay_out(ctx: &Context, dir: &Path, ledger: &Ledger, source: &Source) -> Result<(), BirthError> {
    let (disk, base) = (dir.join("disk"), dir.join("memory"));
    let _ = std::fs::remove_file(&base);
    match source {
        Source::Disk => {}
        Source::Image(image) => {
            let _ = std::fs::remove_file(&disk);
            ctx.store.create_disk(&image.rootfs, image.bytes, &disk, ledger.wish.disk_mib)?;
        }
        Source::Capture(capture) => {
            let _ = std::fs::remove_file(&disk);
            capture.give(&base, &disk)?;
        }
    }
    Ok(())
}

/// What a guest has from its source, into its ledger.
fn inherit(ledger: &mut Ledger, source: &Source) {
    match source {
        Source::Disk => {}
        Source::Image(image) => {
            ledger.image.clone_from(&image.version);
            ledger.workdir.clone_from(&image.default_workdir);
            if ledger.wish.default_user.is_empty() {
                ledger.wish.default_user.clone_from(&image.default_user);
            }
            ledger.memory_checksum = 0;
        }
        Source::Capture(capture) => {
            let manifest = &capture.manifest;
            ledger.image.clone_from(&manifest.image);
            ledger.workdir.clone_from(&manifest.default_workdir);
            if ledger.wish.default_user.is_empty() {
                ledger.wish.default_user.clone_from(&manifest.default_user);
            }
            let own = std::mem::take(&mut ledger.wish.default_env);
            ledger.wish.default_env = manifest.default_env.clone();
            ledger.wish.default_env.extend(own);
            ledger.wish.vcpus = manifest.vcpus;
            ledger.wish.memory_mib = manifest.memory_mib;
            ledger.memory_checksum = manifest.memory.checksum;
        }
    }
}

/// A loaded guest goes on; a booted one runs already.
async fn let_go(
    ctx: &Context,
    dir: &Path,
    ledger: &Ledger,
    source: &Source,
    steps: &Steps,
    machine: &Arc<dyn Machine>,
) -> Result<(), BirthError> {
    let pid = machine.record().process.pid;
    ctx.faults.reach(steps.loaded, Some(pid));
    if let Source::Capture(capture) = source {
        let bytes = u64::from(ledger.wish.disk_mib) << 20;
        if bytes > capture.manifest.disk_bytes {
            ctx.store.grow_disk(&dir.join("disk"), capture.manifest.disk_bytes, ledger.wish.disk_mib)?;
            machine.grow_disk(bytes).await?;
        }
        machine.resume().await?;
    }
    ctx.faults.reach(steps.running, Some(pid));
    Ok(())
}

fn run_dir(ctx: &Context, dir: &Path) -> PathBuf {
    ctx.run_dir.join(dir.file_name().unwrap_or_default())
}

/// A machine whose files are in `dir`.
pub fn machine_spec(ctx: &Context, dir: &Path, vcpus: u32, memory_mib: u32, slot: &Slot) -> Result<Spec, BirthError> {
    Ok(Spec {
        frame: machine_frame(ctx, dir, vcpus, memory_mib, slot)?,
        kernel: ctx.kernel.path.clone(),
        initramfs: ctx.kernel.initramfs.clone(),
        command_line: String::new(),
        disk: dir.join("disk"),
        memory: dir.join("memory"),
        // Memory is shared between sandboxes, and a balloon would punch holes into it.
        balloon: false,
    })
}

/// What a machine of these sizes is before it has memory and disk.
pub fn machine_frame(ctx: &Context, dir: &Path, vcpus: u32, memory_mib: u32, slot: &Slot) -> Result<Frame, BirthError> {
    let run_dir = run_dir(ctx, dir);
    let made = std::fs::create_dir_all(&run_dir);
    made.map_err(|source| StorageError::File { act: "create", path: run_dir.clone(), source })?;
    Ok(Frame { vcpus, memory_mib, tap: slot.open_tap()?, mac: GUEST_MAC, run_dir, log: dir.join("vmm.log") })
}

/// Tells the guest who it is, and waits for its confirmation.
pub async fn greet(
    ctx: &Context,
    ledger: &Ledger,
    source: &Source,
    beacon: Option<&Beacon>,
    guest: &GuestClient,
    machine: &Arc<dyn Machine>,
) -> Result<InitDone, BirthError> {
    let wish = &ledger.wish;
    let grown = match source {
        Source::Capture(capture) => u64::from(wish.disk_mib) << 20 > capture.manifest.disk_bytes,
        Source::Image(_) | Source::Disk => true,
    };
    let greeting = Greeting {
        sandbox_id: wish.id.to_string(),
        template: &wish.template,
        token: &ledger.token,
        lifecycle: &ledger.lifecycle,
        default_user: &wish.default_user,
        default_workdir: &ledger.workdir,
        env: &wish.default_env,
        dns: &ctx.config.dns,
        proxy_domain: &ctx.config.proxy_domain,
        grow_root: grown,
    };
    let ready = tokio::select! {
        biased;
        ready = wait_ready(beacon, guest, &greeting) => ready,
        () = machine.ended() => return Err(BirthError::Ended { console: last_words(machine).await }),
    };
    match ready {
        Ok(done) => Ok(done),
        Err(source) => Err(BirthError::Guest { console: last_words(machine).await, source }),
    }
}

fn metadata(ctx: &Context, done: InitDone, source: &Source) -> BTreeMap<String, String> {
    let vmm = format!("{} {}", ctx.driver.name(), ctx.driver.version());
    let mut all = BTreeMap::from([
        (KERNEL_VERSION.to_owned(), done.kernel_version),
        ("vmm_version".to_owned(), vmm),
        ("agent_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("envd_version".to_owned(), done.version),
    ]);
    if matches!(source, Source::Disk) {
        all.insert(RESUMED_FROM.to_owned(), "disk".to_owned());
    }
    all
}

/// The end of the console, fit to be shown: what a guest prints is hostile.
pub async fn last_words(machine: &Arc<dyn Machine>) -> String {
    let console = machine.console().await;
    let begin = console.len().saturating_sub(CONSOLE_SHOWN);
    let text = String::from_utf8_lossy(&console[begin..]).into_owned();
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    if words.is_empty() { "(nothing)".to_owned() } else { words.join(" ") }
}

/// A new access token for a guest.
pub fn random_token() -> Result<String, BirthError> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|_| BirthError::Random)?;
    Ok(hex::encode(random))
}
