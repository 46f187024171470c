//! The fake VMM driver, behind the real traits.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use wrenn_linux::process::Identity;
use wrenn_vmm::{
    Acceleration, CaptureRequest, CapturedMemory, ChangedPages, DeviceState, DiskSpec, Driver, Frame, Machine,
    PendingCapture, Prestart, PrestartedVmm, Record, Spec, TakenCapture, VmmError,
};

use super::machine::{FakeVm, Guest, GuestMemory, Paths};
use super::world::World;
use crate::mutex::lock;
use crate::vmms::Vmms;

const STATE: &str = "state.json";

fn failed(act: &'static str) -> impl Fn(std::io::Error) -> VmmError {
    move |error| VmmError::new(act, error)
}

/// Starts fake machines.
pub struct FakeDriver(pub Arc<World>);

impl FakeDriver {
    fn launch(&self, frame: &Frame, memory: &Path) -> Result<Arc<FakeVm>, VmmError> {
        let mut number = [0u8; 4];
        File::from(frame.tap.try_clone().map_err(failed("start"))?)
            .read_exact_at(&mut number, 0)
            .map_err(failed("start"))?;
        let paths = Paths { run_dir: frame.run_dir.clone(), memory: memory.to_owned() };
        let silent = self.0.makes_silent.load(Ordering::Relaxed);
        let vm = FakeVm::start(self.0.next_pid(), u32::from_le_bytes(number), &frame.log, paths, silent);
        let vm = Arc::new(vm.map_err(failed("start"))?);
        self.0.add(Arc::clone(&vm));
        Ok(vm)
    }
}

fn load(vm: &FakeVm, disks: &[DiskSpec], memory: &Path, state: &DeviceState) -> Result<(), VmmError> {
    memory.metadata().map_err(failed("map the memory of"))?;
    let bytes = std::fs::read(state.only_file()?).map_err(failed("restore"))?;
    let memory: GuestMemory = serde_json::from_slice(&bytes).map_err(|error| VmmError::new("restore", error))?;
    let guest = Guest::new(memory, &disks[0].path, true).map_err(failed("restore"))?;
    *lock(&vm.guest) = Some(guest);
    Ok(())
}

impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn version(&self) -> &str {
        "1"
    }

    fn acceleration(&self) -> Acceleration {
        Acceleration::Software
    }

    fn boot(&self, spec: Spec) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            let vm = self.launch(&spec.frame, &spec.memory)?;
            let made = File::create(&spec.memory).and_then(|file| file.set_len(u64::from(spec.frame.memory_mib) << 20));
            made.map_err(failed("start"))?;
            // What the memory loses at a boot is on the disk still.
            let guest = Guest::new(GuestMemory::default(), &spec.disks[0].path, false).map_err(failed("start"))?;
            *lock(&vm.guest) = Some(guest);
            if let Some(ready) = lock(&self.0.slots).get(&vm.slot).and_then(|slot| slot.ready) {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").map_err(failed("start"))?;
                socket.send_to(b"ready", ready).map_err(failed("start"))?;
            }
            Ok(Arc::new(FakeMachine { vm, world: Arc::clone(&self.0) }) as Arc<dyn Machine>)
        })
    }

    fn restore(&self, spec: Spec, state: DeviceState) -> BoxFuture<'_, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            let vm = self.launch(&spec.frame, &spec.memory)?;
            load(&vm, &spec.disks, &spec.memory, &state).inspect_err(|_| vm.end())?;
            Ok(Arc::new(FakeMachine { vm, world: Arc::clone(&self.0) }) as Arc<dyn Machine>)
        })
    }

    fn prestart(&self) -> Option<&dyn Prestart> {
        Some(self)
    }

    fn adopt(&self, record: Record) -> BoxFuture<'_, Result<Option<Arc<dyn Machine>>, VmmError>> {
        let machine = self
            .0
            .vm(record.process.pid)
            .map(|vm| Arc::new(FakeMachine { vm, world: Arc::clone(&self.0) }) as Arc<dyn Machine>);
        Box::pin(async move { Ok(machine) })
    }
}

impl Prestart for FakeDriver {
    fn start(&self, frame: Frame) -> BoxFuture<'_, Result<Box<dyn PrestartedVmm>, VmmError>> {
        let started = self.launch(&frame, Path::new("/none"));
        let world = Arc::clone(&self.0);
        Box::pin(async move { Ok(Box::new(FakePrestarted { vm: Some(started?), world }) as Box<dyn PrestartedVmm>) })
    }
}

struct FakePrestarted {
    /// Until it is a machine.
    vm: Option<Arc<FakeVm>>,
    world: Arc<World>,
}

impl FakePrestarted {
    fn vm(&self) -> &Arc<FakeVm> {
        self.vm.as_ref().expect("it is not a machine yet")
    }
}

impl PrestartedVmm for FakePrestarted {
    fn run_dir(&self) -> PathBuf {
        lock(&self.vm().paths).run_dir.clone()
    }

    fn moved(&mut self, run_dir: PathBuf) {
        lock(&self.vm().paths).run_dir = run_dir;
    }

    fn is_alive(&self) -> bool {
        self.vm().is_alive()
    }

    fn restore(
        mut self: Box<Self>,
        disks: Vec<DiskSpec>,
        memory: PathBuf,
        state: DeviceState,
    ) -> BoxFuture<'static, Result<Arc<dyn Machine>, VmmError>> {
        Box::pin(async move {
            load(self.vm(), &disks, &memory, &state)?;
            lock(&self.vm().paths).memory = memory;
            let vm = self.vm.take().expect("it is not a machine yet");
            Ok(Arc::new(FakeMachine { vm, world: Arc::clone(&self.world) }) as Arc<dyn Machine>)
        })
    }

    fn kill(&self, _: Duration) -> BoxFuture<'_, Result<(), VmmError>> {
        self.vm().end();
        Box::pin(async { Ok(()) })
    }
}

impl Drop for FakePrestarted {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            vm.end();
        }
    }
}

/// A hold on a fake VMM.
struct FakeMachine {
    vm: Arc<FakeVm>,
    world: Arc<World>,
}

impl FakeMachine {
    fn set_paused(&self, act: &'static str, paused: bool) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async move {
            if !self.vm.is_alive() {
                return Err(VmmError::new(act, "its VMM has ended"));
            }
            lock(&self.vm.guest).as_mut().ok_or_else(|| VmmError::new(act, "it has no guest"))?.is_paused = paused;
            Ok(())
        })
    }
}

impl Machine for FakeMachine {
    fn record(&self) -> Record {
        let Paths { run_dir, memory } = lock(&self.vm.paths).clone();
        let process = Identity { pid: self.vm.pid, start_time: 1 };
        Record { driver: "fake".to_owned(), version: "1".to_owned(), process, confined: true, run_dir, memory }
    }

    fn moved(&self, run_dir: PathBuf, memory: PathBuf) {
        *lock(&self.vm.paths) = Paths { run_dir, memory };
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        self.set_paused("pause", true)
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmmError>> {
        self.set_paused("resume", false)
    }

    fn begin_capture(&self, request: CaptureRequest) -> BoxFuture<'_, Result<Box<dyn PendingCapture>, VmmError>> {
        let pending = FakeCapture { vm: Arc::clone(&self.vm), state: request.state_dir.join(STATE) };
        Box::pin(async move { Ok(Box::new(pending) as Box<dyn PendingCapture>) })
    }

    fn grow_disk(&self, _: usize, _: u64) -> BoxFuture<'_, Result<(), VmmError>> {
        Box::pin(async { Ok(()) })
    }

    fn console(&self) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async { b"the fake guest's last line".to_vec() })
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        self.vm.ended().boxed()
    }

    fn kill(&self, _: Duration) -> BoxFuture<'_, Result<(), VmmError>> {
        self.vm.end();
        drop(Arc::clone(&self.world));
        Box::pin(async { Ok(()) })
    }
}

struct FakeCapture {
    vm: Arc<FakeVm>,
    state: PathBuf,
}

impl PendingCapture for FakeCapture {
    fn take(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn TakenCapture>, VmmError>> {
        Box::pin(async move {
            let guest = lock(&self.vm.guest);
            let guest = guest.as_ref().ok_or_else(|| VmmError::new("capture", "it has no guest"))?;
            if !guest.is_paused || !self.vm.is_alive() {
                return Err(VmmError::new("capture", "it is not paused"));
            }
            let bytes = serde_json::to_vec(&guest.memory).expect("it is plain data");
            std::fs::write(&self.state, bytes).map_err(failed("capture"))?;
            Ok(Box::new(FakeTaken) as Box<dyn TakenCapture>)
        })
    }
}

struct FakeTaken;

impl TakenCapture for FakeTaken {
    fn state_files(&self) -> Vec<String> {
        vec![STATE.to_owned()]
    }

    fn used(&self) -> &[(u64, u64)] {
        &[]
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<CapturedMemory, VmmError>> {
        Box::pin(async { Ok(CapturedMemory::Changed(ChangedPages::default())) })
    }
}

/// Finds fake VMMs by the log they have open.
pub struct FakeVmms(pub Arc<World>);

impl Vmms for FakeVmms {
    fn end_below<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, ()> {
        for vm in self.0.living() {
            if vm.holds_file_below(dir) {
                vm.end();
            }
        }
        Box::pin(async {})
    }
}
