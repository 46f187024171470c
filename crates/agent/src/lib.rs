//! The host agent: owns the VMs of one machine, their disks and networks. Answers the control plane, never calls it.
//!
//! Rooms: [`rpc`] -> [`sandbox`] -> [`network`], [`storage`], [`guest`], [`ledger`]; the last four never see each other. Below all of
//! them: [`sockets`], [`failure`], [`blocking`], [`mutex`], [`tasks`], [`start_load`].

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use wrenn_linux::own_process;

mod blocking;
pub mod config;
mod context;
mod directory_lock;
mod disk_kind;
mod failure;
#[cfg(test)]
mod fake;
pub mod faults;
#[doc(hidden)]
pub mod fuzz;
mod guest;
mod host;
mod instance;
mod ledger;
pub mod leftovers;
mod mutex;
mod network;
pub mod probe;
mod rpc;
mod sandbox;
mod sockets;
mod start_load;
mod storage;
mod tasks;
mod vmms;

use blocking::blocking;
use config::Config;
use context::{Context, Kernel};
use directory_lock::DirectoryLock;
use faults::Faults;
use instance::Instance;
use network::{Egress, HostSlots};
use sandbox::Registry;
use start_load::StartLoad;
use storage::{Compatibility, Images, Store};
use tasks::Tasks;
use vmms::HostVmms;

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
    #[error(
        "this process may have {allowed} files open and needs up to {needed}: raise the hard limit (`ulimit -Hn`, or LimitNOFILE= of its \
         systemd unit)"
    )]
    OpenFiles { allowed: u64, needed: u64 },
    #[error(
        "guests would run in software emulation (TCG), which QEMU does not hold to be a wall against them: `wrenn doctor` says what KVM \
         misses here; set WRENN_ALLOW_TCG=on to serve all the same, for guests you trust"
    )]
    SoftwareOnly,
    #[error(transparent)]
    Instance(#[from] instance::InstanceError),
    #[error("the store could not be used")]
    Storage(#[from] storage::StorageError),
    #[error("the network could not be prepared")]
    Network(#[from] network::NetworkError),
    #[error(transparent)]
    Kernel(#[from] context::NoKernel),
    #[error("not everything of this agent could be removed")]
    Purge(#[from] sandbox::PurgeError),
    #[error("no VMM can be used")]
    Vmm(#[from] wrenn_vmm::VmmError),
}

/// A prepared agent.
pub struct Agent {
    ctx: Arc<Context>,
    /// Held for as long as the agent lives: two on one directory would destroy each other's sandboxes.
    _lock: DirectoryLock,
}

impl Agent {
    /// Opens the store, writes the host's rules, finds kernel and VMM. Starts nothing.
    ///
    /// # Errors
    /// Something the agent needs is missing, or another agent uses the directory.
    pub async fn prepare(config: Config) -> Result<Self, AgentError> {
        let io = |act: String| move |source| AgentError::Io { act, source };
        let dir = config.dir.clone();
        // Also one that is there: ledgers, disks and memories of guests lie in it.
        make_private(&dir).map_err(io(format!("create {} for its owner alone", dir.display())))?;
        let lock = DirectoryLock::take(&dir).map_err(io(format!("lock {}", dir.display())))?;
        let lock = lock.ok_or_else(|| AgentError::Locked { dir: dir.clone() })?;
        network::forward_on_host().map_err(AgentError::Forwarding)?;
        let instance = Instance::load(&dir, config.network).await?;
        let store = Store::open(&dir, config.store_bytes).await?;
        let run_dir = PathBuf::from("/run").join(format!("wrenn-{}", instance.id()));
        make_private(&run_dir).map_err(io(format!("create {}", run_dir.display())))?;
        leftovers::note_directory(&run_dir, &dir).map_err(io(format!("write into {}", run_dir.display())))?;
        let egress = Egress { allow: config.egress_allow.clone() };
        let start_load = Arc::new(StartLoad::default());
        let slots = HostSlots::new(instance, egress, config.bounds, config.slot_pool, Arc::clone(&start_load))?;
        let kernel = Kernel::find(&dir)?;
        let wrenn_vmm::Found { driver, detail } = wrenn_vmm::find(&config.vmm(store.root())).await?;
        tracing::info!(vmm = driver.name(), acceleration = driver.acceleration().as_str(), "{detail}");
        let its = store.clone();
        let images = blocking(move || Images::open(its)).await;
        let compatibility = Compatibility {
            vmm: driver.name().to_owned(),
            vmm_version: driver.version().to_owned(),
            acceleration: driver.acceleration(),
            cpu: context::cpu_digest().map_err(io("read /proc/cpuinfo".into()))?,
        };
        let faults = Faults::new(config.faults.then(|| config.dir.join("fault")), store.root().to_owned());
        let boot_id = context::boot_id().map_err(io("read this machine's boot id".into()))?;
        let vmms = Arc::new(HostVmms::new(store.root().to_owned()));
        let slots = Arc::new(slots);
        let ctx = Context {
            config,
            store,
            images,
            slots,
            driver,
            vmms,
            kernel,
            run_dir,
            compatibility,
            boot_id,
            faults,
            start_load,
        };
        Ok(Self { ctx: Arc::new(ctx), _lock: lock })
    }

    /// Takes over what an earlier agent left, then serves until `stop` ends. Running VMs stay: the next agent takes them over.
    ///
    /// # Errors
    /// Guests would run in software and that is not allowed, the address is in use, too few files may be open, or the host's networks cannot be listed.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), AgentError> {
        let io = |act: String| move |source| AgentError::Io { act, source };
        if self.ctx.driver.acceleration() == wrenn_vmm::Acceleration::Software {
            if !self.ctx.config.allow_software {
                return Err(AgentError::SoftwareOnly);
            }
            tracing::warn!(
                "guests run in software emulation (WRENN_ALLOW_TCG=on), which is no wall: let nobody run what you do not trust"
            );
        }
        let listen = self.ctx.config.listen;
        check_open_files(own_process::raise_open_files().map_err(io("raise the number of open files".into()))?)?;
        let listener = TcpListener::bind(listen).await.map_err(io(format!("listen on {listen}")))?;
        let revision = sandbox::Revision::load(&self.ctx.config.dir).map_err(io("keep the host's revision".into()))?;
        let tasks = Tasks::default();
        let registry = Registry::new(Arc::clone(&self.ctx), revision, tasks.clone());
        sandbox::recover(&registry).await?;
        self.start_tasks(&registry);
        tracing::info!(address = %listen, "the agent serves");
        rpc::serve(listener, Arc::clone(&registry), stop).await;
        tasks.stop().await;
        let metrics = Arc::clone(&registry.metrics);
        blocking(move || metrics.keep_all()).await;
        Ok(())
    }

    /// Starts what runs for as long as the agent does.
    fn start_tasks(&self, registry: &Arc<Registry>) {
        let (ctx, pools, tasks) = (&self.ctx, &registry.pools, &registry.tasks);
        let slots = Arc::clone(&ctx.slots);
        tasks.spawn("network slots", async move { slots.maintain().await });
        tasks.spawn("template memories", sandbox::make_template_memories(Arc::clone(ctx), Arc::clone(pools)));
        tasks.spawn("warm VMs", sandbox::maintain(Arc::clone(ctx), Arc::clone(&pools.warm_vms)));
        // A VMM that cannot wait for its guest has no pool.
        if let Some(prestarted_vmms) = &pools.prestarted_vmms {
            tasks.spawn("prestarted VMMs", sandbox::maintain(Arc::clone(ctx), Arc::clone(prestarted_vmms)));
        }
        let (board, metrics) = (Arc::clone(&registry.board), Arc::clone(&registry.metrics));
        tasks.spawn("metrics", sandbox::measure(Arc::clone(ctx), board, metrics));
    }

    /// Removes every sandbox and everything this agent's instance holds on the machine. Images and settings stay.
    ///
    /// # Errors
    /// A network or the store's mount does not go.
    pub async fn purge(self) -> Result<(), AgentError> {
        Ok(sandbox::purge(&self.ctx).await?)
    }
}

/// Pools that are larger than what the process may open would be no bounds.
fn check_open_files(allowed: u64) -> Result<(), AgentError> {
    /// Disks, sockets and machines of guests, and files that are open for a moment.
    const OTHERS: usize = 4096;
    let needed = u64::try_from(rpc::DESCRIPTORS_MAX + OTHERS).unwrap_or(u64::MAX);
    if allowed < needed { Err(AgentError::OpenFiles { allowed, needed }) } else { Ok(()) }
}

fn make_private(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_open_files_below_the_pools_is_refused_with_the_remedy() {
        assert!(check_open_files(1 << 20).is_ok());
        let refused = check_open_files(1024).unwrap_err().to_string();
        assert!(refused.contains("may have 1024 files") && refused.contains("LimitNOFILE="), "{refused}");
    }
}
