//! The host agent: owns the VMs of one machine, their disks and networks. Answers the control plane, never calls it.
//!
//! Rooms: [`rpc`] -> [`sandbox`] -> [`network`], [`storage`], [`guest`], [`ledger`]; the last four never see each other.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use wrenn_vmm::Driver;
use wrenn_vmm::qemu::Qemu;

mod calm;
pub mod config;
mod context;
pub mod faults;
mod guest;
mod host;
mod instance;
mod ledger;
mod lock;
mod network;
pub mod probe;
mod rpc;
mod sandbox;
mod storage;

use config::Config;
use context::{Context, Kernel};
use faults::Faults;
use instance::Instance;
use network::{Egress, Slots};
use sandbox::{Registry, Stock, Templates};
use storage::{Images, Maker, Store};

/// The agent could not start, run or clear up.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent needs root for network namespaces, mounts and VMs")]
    NotRoot,
    #[error("another agent uses {} already", dir.display())]
    Locked { dir: PathBuf },
    #[error("could not {act}")]
    Io { act: String, source: std::io::Error },
    #[error(
        "this host does not forward packets and the agent may not switch it on: run `sysctl -w net.ipv4.ip_forward=1`"
    )]
    Forwarding(#[source] std::io::Error),
    #[error(transparent)]
    Instance(#[from] instance::InstanceError),
    #[error("the store could not be used")]
    Storage(#[from] storage::StorageError),
    #[error("the network could not be prepared")]
    Network(#[from] network::NetworkError),
    #[error(transparent)]
    Kernel(#[from] context::NoKernel),
    #[error("no VMM can be used")]
    Vmm(#[from] wrenn_vmm::VmmError),
}

/// A prepared agent.
pub struct Agent {
    ctx: Arc<Context>,
    /// Held for as long as the agent lives: two on one directory would destroy each other's sandboxes.
    _lock: lock::Lock,
}

impl Agent {
    /// Opens the store, writes the host's rules, finds kernel and VMM. Starts nothing.
    pub async fn prepare(config: Config) -> Result<Self, AgentError> {
        let io = |act: String| move |source| AgentError::Io { act, source };
        let dir = config.dir.clone();
        std::fs::create_dir_all(&dir).map_err(io(format!("create {}", dir.display())))?;
        let lock = lock::take(&dir).map_err(io(format!("lock {}", dir.display())))?;
        let lock = lock.ok_or_else(|| AgentError::Locked { dir: dir.clone() })?;
        network::forward_on_host().map_err(AgentError::Forwarding)?;
        let instance = Instance::load(&dir, config.network).await?;
        let store = Store::open(&dir, config.store_bytes).await?;
        let run_dir = PathBuf::from("/run").join(format!("wrenn-{}", instance.id()));
        make_private(&run_dir).map_err(io(format!("create {}", run_dir.display())))?;
        let egress = Egress { allow: config.egress_allow.clone() };
        let calm = Arc::new(calm::Calm::default());
        let slots = Slots::new(instance, egress, config.slot_pool, Arc::clone(&calm))?;
        let kernel = Kernel::find(&dir)?;
        let probed = wrenn_vmm::probe::acceleration(&config.qemu).await;
        tracing::info!(acceleration = probed.acceleration.as_str(), "{}", probed.detail);
        let driver = Arc::new(Qemu::find(&config.qemu, probed.acceleration).await?);
        let images = Images::open(store.clone());
        let maker = Maker {
            vmm: driver.name().to_owned(),
            vmm_version: driver.version().to_owned(),
            acceleration: probed.acceleration.as_str().to_owned(),
            cpu: context::cpu_digest(),
        };
        let faults = Faults::new(config.faults.then(|| config.dir.join("fault")), store.root().to_owned());
        let boot_id = context::boot_id();
        let templates = Templates::default();
        let (spares, blanks) = (Stock::new(config.spares_max), Stock::new(config.spares_max));
        let ctx = Arc::new(Context {
            config,
            store,
            images,
            slots,
            calm,
            driver,
            kernel,
            run_dir,
            maker,
            boot_id,
            faults,
            templates,
            spares,
            blanks,
        });
        Ok(Self { ctx, _lock: lock })
    }

    /// Takes over what a predecessor left, then serves until `stop` ends. Running VMs stay: the next agent takes them over.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), AgentError> {
        let io = |act: String| move |source| AgentError::Io { act, source };
        let listen = self.ctx.config.listen;
        let listener = TcpListener::bind(listen).await.map_err(io(format!("listen on {listen}")))?;
        let revision = sandbox::Revision::load(&self.ctx.config.dir).map_err(io("keep the host's revision".into()))?;
        let registry = Registry::new(Arc::clone(&self.ctx), revision);
        sandbox::recover(&registry).await?;
        let stock = tokio::spawn(Arc::clone(&self.ctx.slots).keep());
        let makers = tokio::spawn(sandbox::make_templates(Arc::clone(&self.ctx)));
        let spares = tokio::spawn(sandbox::keep(Arc::clone(&self.ctx), |ctx| &ctx.spares));
        let blanks = tokio::spawn(sandbox::keep(Arc::clone(&self.ctx), |ctx| &ctx.blanks));
        let measuring = tokio::spawn(sandbox::measure(Arc::clone(&registry)));
        tracing::info!(address = %listen, "the agent serves");
        let outcome = rpc::serve(listener, Arc::clone(&registry), stop).await;
        measuring.abort();
        registry.keep_metrics();
        stock.abort();
        makers.abort();
        spares.abort();
        blanks.abort();
        outcome.map_err(io("serve".into()))
    }

    /// Removes every sandbox and everything this agent's instance holds on the machine. Images and settings stay.
    pub async fn purge(self) -> Result<(), AgentError> {
        sandbox::purge(&self.ctx).await
    }
}

fn make_private(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}
