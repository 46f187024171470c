//! A real agent on the fake host, on one thread, so that parking that thread stops all of it at once, as a kill does.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use wrenn_domain::ids::SandboxId;
use wrenn_vmm::{Acceleration, Driver};

use super::network::FakeSlots;
use super::vmm::{FakeDriver, FakeVmms};
use super::world::World;
use crate::config::Config;
use crate::context::{Context, Kernel};
use crate::faults::{Faults, Point};
use crate::ledger::SandboxSpec;
use crate::mutex::lock;
use crate::sandbox::{self, Phase, Registry, Report, Revision};
use crate::start_load::StartLoad;
use crate::storage::{Compatibility, CopiedDisks, Images, Store};
use crate::tasks::Tasks;

/// Longest wait for anything here; all of it takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// Victim of a step: the process that dies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Agent,
    Vmm,
}

type Job = Box<dyn FnOnce(Arc<Registry>) -> BoxFuture<'static, ()> + Send>;

/// An agent on the fake host. Dropped, it is killed.
pub struct FakeAgent {
    jobs: mpsc::UnboundedSender<Job>,
    is_dead: Arc<AtomicBool>,
    armed: Arc<Mutex<Option<(Point, Victim)>>>,
}

impl FakeAgent {
    /// Starts an agent that has recovered what an earlier one left; `has_pools`: it makes things ahead of time.
    pub fn start(world: &Arc<World>, has_pools: bool) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let agent = Self { jobs, is_dead: Arc::default(), armed: Arc::default() };
        let (world, is_dead, armed) = (Arc::clone(world), Arc::clone(&agent.is_dead), Arc::clone(&agent.armed));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(live(world, queue, is_dead, armed, has_pools));
        });
        // Recovered when the first job runs.
        agent.call(|_| async {}).expect("it lives");
        agent
    }

    /// Names the step at which somebody dies, once.
    pub fn arm(&self, point: Point, victim: Victim) {
        *lock(&self.armed) = Some((point, victim));
    }

    /// Whether the armed step was passed.
    pub fn has_struck(&self) -> bool {
        lock(&self.armed).is_none()
    }

    /// Whether the agent has died.
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// Runs something on the agent; `None` when it died meanwhile.
    pub fn call<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Registry>) -> F + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |registry| {
            let work = work(registry);
            Box::pin(async move { drop(reply.send(work.await)) }) as Pin<Box<_>>
        });
        self.jobs.send(job).ok()?;
        let end = Instant::now() + SOON;
        loop {
            match answer.recv_timeout(Duration::from_millis(2)) {
                Ok(answer) => return Some(answer),
                Err(_) if self.is_dead.load(Ordering::SeqCst) => return None,
                Err(_) => assert!(Instant::now() < end, "the agent does not answer"),
            }
        }
    }

    /// Kills the agent: nothing of it goes on, and nothing of it is tidied up.
    pub fn kill(&self) {
        if self.is_dead() {
            return;
        }
        let is_dead = Arc::clone(&self.is_dead);
        let died: Job = Box::new(move |_| Box::pin(async move { die(&is_dead) }));
        drop(self.jobs.send(died));
        let end = Instant::now() + SOON;
        while !self.is_dead.load(Ordering::SeqCst) {
            assert!(Instant::now() < end, "the agent does not die");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks for a sandbox of the image `minimal`; the report, unless the agent died.
    pub fn create(&self, id: SandboxId) -> Option<Report> {
        let spec = SandboxSpec {
            template: "minimal".to_owned(),
            vcpus: 1,
            memory_mib: 16,
            disk_mib: 2,
            ..SandboxSpec::empty(id)
        };
        Some(self.call(move |registry| async move { registry.create(spec).await })?.expect("it is admitted"))
    }

    /// Returns the report of a sandbox, once `is_so` holds; `None` when the agent died.
    pub fn wait(&self, id: SandboxId, is_so: impl Fn(&Report) -> bool) -> Option<Report> {
        let end = Instant::now() + SOON;
        loop {
            let report = self.call(move |registry| async move { registry.report(id) })?;
            match report {
                Some(report) if is_so(&report) => return Some(report),
                other => assert!(Instant::now() < end, "not so: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a phase; `None` when the agent died.
    pub fn wait_phase(&self, id: SandboxId, phase: Phase) -> Option<Report> {
        self.wait(id, |report| report.phase == phase)
    }

    /// Makes a sandbox that runs.
    pub fn running(&self, id: SandboxId) -> Report {
        self.create(id).expect("it lives");
        self.wait_phase(id, Phase::Running).expect("it lives")
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        // An agent whose own thread panicked cannot be killed any more, and its test has failed already.
        if !std::thread::panicking() {
            self.kill();
        }
    }
}

fn die(is_dead: &AtomicBool) -> ! {
    is_dead.store(true, Ordering::SeqCst);
    loop {
        std::thread::park();
    }
}

async fn live(
    world: Arc<World>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    is_dead: Arc<AtomicBool>,
    armed: Arc<Mutex<Option<(Point, Victim)>>>,
    has_pools: bool,
) {
    let vms = Arc::clone(&world);
    let faults = Faults::with(Box::new(move |point, vmm| {
        let victim = {
            let mut armed = lock(&armed);
            match *armed {
                Some((at, victim)) if at == point => {
                    *armed = None;
                    victim
                }
                _ => return,
            }
        };
        match victim {
            Victim::Agent => die(&is_dead),
            Victim::Vmm => vmm.and_then(|pid| vms.vm(pid)).expect("a VMM at this step").end(),
        }
    }));
    let ctx = Arc::new(context(&world, faults));
    let tasks = Tasks::default();
    let registry = Registry::new(Arc::clone(&ctx), Revision::load(world.dir()).unwrap(), tasks.clone());
    sandbox::recover(&registry).await.expect("it recovers");
    if has_pools {
        let pools = &registry.pools;
        tasks.spawn("template memories", sandbox::make_template_memories(Arc::clone(&ctx), Arc::clone(pools)));
        tasks.spawn("warm VMs", sandbox::maintain(Arc::clone(&ctx), Arc::clone(&pools.warm_vms)));
        let prestarted = pools.prestarted_vmms.as_ref().expect("the fake driver can prestart");
        tasks.spawn("prestarted VMMs", sandbox::maintain(Arc::clone(&ctx), Arc::clone(prestarted)));
    }
    while let Some(job) = queue.recv().await {
        tokio::spawn(job(Arc::clone(&registry)));
    }
}

fn context(world: &Arc<World>, faults: Faults) -> Context {
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver(Arc::clone(world)));
    let store = Store::with_disks(world.dir(), world.dir(), Arc::new(CopiedDisks)).expect("a store");
    let compatibility = Compatibility {
        vmm: driver.name().to_owned(),
        vmm_version: driver.version().to_owned(),
        acceleration: Acceleration::Software,
        cpu: "fake".to_owned(),
    };
    let run_dir = world.dir().join("run");
    std::fs::create_dir_all(&run_dir).expect("a directory");
    Context {
        config: Config::for_tests(world.dir()),
        images: Images::open(store.clone()),
        store,
        slots: Arc::new(FakeSlots::new(Arc::clone(world))),
        driver,
        vmms: Arc::new(FakeVmms(Arc::clone(world))),
        kernel: Kernel::find(world.dir()).expect("a kernel"),
        run_dir,
        compatibility,
        boot_id: lock(&world.boot_id).clone(),
        faults,
        start_load: Arc::new(StartLoad::default()),
    }
}
