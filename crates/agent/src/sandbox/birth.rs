//! From a wish to a sandbox that may be handed out. Each step is in the ledger before it is taken.

use std::sync::Arc;

use wrenn_contract::guest::GUEST_MAC;
use wrenn_linux::netns::Netns;
use wrenn_vmm::{Machine, Spec, VmmError};

use super::report::now_ms;
use crate::context::Context;
use crate::guest::{Beacon, Greeting, GuestClient, GuestError, wait_ready};
use crate::ledger::{Ledger, LedgerError, Step, Wish};
use crate::network::{NetworkError, Slot};
use crate::storage::{Image, StorageError};

/// Bytes of console shown with a failure.
const CONSOLE_SHOWN: usize = 600;

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
            Self::Storage(error @ (StorageError::TooSmall { .. } | StorageError::NoImage(_))) => {
                (error.to_string(), "invalid_request")
            }
            Self::Storage(error @ StorageError::Full { .. }) => (error.to_string(), "no_hosts_available"),
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
}

/// Slot and machine as far as they were made; what is set must be given back.
#[derive(Default)]
pub struct Begun {
    pub slot: Option<Slot>,
    pub machine: Option<Arc<dyn Machine>>,
}

/// Makes the sandbox. On failure `begun` tells what there is to clear up.
pub async fn give_birth(ctx: &Context, wish: Wish, begun: &mut Begun) -> Result<Body, BirthError> {
    let image = ctx.images.get(&wish.template)?;
    let dir = ctx.store.create_sandbox_dir(wish.id)?;
    let mut ledger = Ledger {
        token: random_token()?,
        wish,
        step: Step::Begun,
        slot: None,
        machine: None,
        started_at_ms: 0,
        metadata: std::collections::BTreeMap::new(),
    };
    ledger.write(&dir)?;
    let slot = ctx.slots.take().await?;
    ledger.slot = Some(slot.number());
    let slot = begun.slot.insert(slot);
    // The namespace is opened anew for the guest's client: the slot itself stays with whoever clears up.
    let netns = Arc::new(Netns::open(slot.netns().name()).map_err(NetworkError::from)?);
    let beacon = Beacon::listen(&netns).map_err(|source| BirthError::Guest { console: String::new(), source })?;
    ledger.step = Step::Machine;
    ledger.write(&dir)?;
    let spec = prepare(ctx, &ledger.wish, &image, slot)?;
    let machine = ctx.driver.boot(spec).await?;
    begun.machine = Some(Arc::clone(&machine));
    ledger.machine = Some(machine.record());
    ledger.write(&dir)?;
    let guest = Arc::new(GuestClient::new(netns, &ledger.token));
    greet(ctx, &mut ledger, &image, &beacon, &guest, &machine).await?;
    ledger.step = Step::Ready;
    ledger.started_at_ms = now_ms();
    ledger.write(&dir)?;
    let slot = begun.slot.take().ok_or(BirthError::Random)?;
    begun.machine = None;
    Ok(Body { ledger, slot, machine, guest })
}

fn prepare(ctx: &Context, wish: &Wish, image: &Image, slot: &Slot) -> Result<Spec, BirthError> {
    let dir = ctx.store.sandbox_dir(wish.id);
    let disk = dir.join("disk");
    ctx.store.create_disk(&image.rootfs, image.bytes, &disk, wish.disk_mib)?;
    let run_dir = ctx.run_dir.join(wish.id.to_string());
    std::fs::create_dir_all(&run_dir).map_err(|source| StorageError::File {
        act: "create",
        path: run_dir.clone(),
        source,
    })?;
    Ok(Spec {
        vcpus: wish.vcpus,
        memory_mib: wish.memory_mib,
        kernel: ctx.kernel.path.clone(),
        initramfs: ctx.kernel.initramfs.clone(),
        command_line: String::new(),
        disk,
        memory: dir.join("memory"),
        tap: slot.open_tap()?,
        balloon: false,
        mac: GUEST_MAC,
        run_dir,
        log: dir.join("vmm.log"),
    })
}

async fn greet(
    ctx: &Context,
    ledger: &mut Ledger,
    image: &Image,
    beacon: &Beacon,
    guest: &GuestClient,
    machine: &Arc<dyn Machine>,
) -> Result<(), BirthError> {
    let wish = &ledger.wish;
    let user = if wish.default_user.is_empty() { &image.default_user } else { &wish.default_user };
    let greeting = Greeting {
        sandbox_id: wish.id.to_string(),
        template: &wish.template,
        token: &ledger.token,
        default_user: user,
        default_workdir: &image.default_workdir,
        env: &wish.default_env,
        dns: &ctx.config.dns,
        proxy_domain: &ctx.config.proxy_domain,
    };
    let ready = tokio::select! {
        biased;
        ready = wait_ready(beacon, guest, &greeting) => ready,
        () = machine.ended() => return Err(BirthError::Ended { console: last_words(machine).await }),
    };
    let done = match ready {
        Ok(done) => done,
        Err(source) => return Err(BirthError::Guest { console: last_words(machine).await, source }),
    };
    let vmm = format!("{} {}", ctx.driver.name(), ctx.driver.version());
    ledger.metadata = [
        ("kernel_version", done.kernel_version),
        ("vmm_version", vmm),
        ("agent_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("envd_version", done.version),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    Ok(())
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

fn random_token() -> Result<String, BirthError> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|_| BirthError::Random)?;
    Ok(hex::encode(random))
}
