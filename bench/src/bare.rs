//! The floor of everything that starts a guest: the same kernel and image under the bare VMM, with a shell loop where envd
//! would be, on the same file system, in a network namespace of its own. And that of a resume that does the same work: a paused
//! capsule's own files under the bare VMM, and the same command asked of its envd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use wrenn_contract::guest::{GATEWAY_ADDR, GATEWAY_MAC, GUEST_ADDR, GUEST_MAC, LINK_PREFIX};
use wrenn_linux::links::Links;
use wrenn_linux::netns::{self, Netns};
use wrenn_linux::{files, tap};
use wrenn_vmm::{
    CaptureRequest, DeviceState, DiskSpec, Driver, Frame, Machine, PendingCapture, Spec, VmmChoice, VmmConfig,
};

use crate::exec::Direct;
use crate::guest::Guest;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const WAIT: Duration = Duration::from_secs(60);
const GONE: Duration = Duration::from_secs(10);
/// Of a guest that comes back.
const BACK_TAP: &str = "back";
/// Counts on the console as fast as a guest that sleeps between can.
const LOOP: &str = "#!/bin/sh\ni=0\nwhile :; do i=$((i+1)); echo \"ECHO $i\" > /dev/ttyS0; sleep 0.005; done\n";

/// Files and network of the bare VMM.
pub struct Bare {
    dir: PathBuf,
    image: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    driver: Arc<dyn Driver>,
    netns: Option<Netns>,
    name: String,
    memory_mib: u32,
    count: std::cell::Cell<u32>,
}

/// A capsule's guest under the bare VMM.
pub struct Back {
    /// Until its envd had run a command.
    pub took: Duration,
    machine: Arc<dyn Machine>,
    /// A connection to its envd.
    pub envd: Direct,
    disk: PathBuf,
    memory: PathBuf,
}

/// A guest written down by the VMM.
pub struct Saved {
    state: DeviceState,
    memory: PathBuf,
    disk: PathBuf,
}

/// User of these VMMs, which no agent gives to one of its own.
const USER: u32 = 0x7ffd_0001;

impl Bare {
    /// `store` is the file system the agent uses; `builds` has kernel and image.
    pub async fn new(store: &Path, builds: &Path, memory_mib: u32) -> anyhow::Result<Self> {
        let dir = store.join("bench");
        std::fs::create_dir_all(&dir)?;
        let found = |prefix: &str| -> anyhow::Result<PathBuf> {
            let all = std::fs::read_dir(builds.join("guest/kernels"))?.flatten().map(|entry| entry.path());
            let mut all = all.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)));
            all.next().with_context(|| format!("no {prefix} below {}", builds.display()))
        };
        let (kernel, initramfs) = (found("vmlinux")?, found("initramfs")?);
        let image = dir.join("image");
        files::copy_sparse(&builds.join("guest/images/minimal/rootfs.ext4"), &image)?;
        let script = dir.join("loop");
        std::fs::write(&script, LOOP)?;
        let commands = format!(
            "rm /usr/local/bin/envd\nwrite {} /usr/local/bin/envd\nset_inode_field /usr/local/bin/envd mode 0100755\n",
            script.display()
        );
        let request = dir.join("commands");
        std::fs::write(&request, commands)?;
        let edited = std::process::Command::new("debugfs").arg("-w").arg("-f").arg(&request).arg(&image).output()?;
        ensure!(edited.status.success(), "debugfs: {}", String::from_utf8_lossy(&edited.stderr));
        let config = VmmConfig { choice: VmmChoice::Qemu, qemu: QEMU.into(), owner: dir.clone() };
        let driver = wrenn_vmm::find(&config).await?.driver;
        let name = format!("wrenn-bench-{}", std::process::id());
        let netns = Some(Netns::create(&name)?);
        Ok(Self { dir, image, kernel, initramfs, driver, netns, name, memory_mib, count: std::cell::Cell::new(0) })
    }

    fn spec(&self, disk: PathBuf, memory: PathBuf) -> anyhow::Result<Spec> {
        self.spec_on(&format!("t{}", self.count.get()), [2, 0, 0, 0, 0, 1], disk, memory)
    }

    fn spec_on(&self, tap: &str, mac: [u8; 6], disk: PathBuf, memory: PathBuf) -> anyhow::Result<Spec> {
        let number = self.count.get() + 1;
        self.count.set(number);
        let run_dir = self.dir.join(format!("run{number}"));
        std::fs::create_dir_all(&run_dir)?;
        let netns = self.netns.as_ref().context("the namespace is there until the end")?;
        Ok(Spec {
            frame: Frame {
                vcpus: 1,
                memory_mib: self.memory_mib,
                tap: netns.run(|| tap::open(tap))?.into(),
                mac,
                run_dir,
                log: self.dir.join("log"),
                network: netns.handle()?,
                user: USER,
            },
            kernel: self.kernel.clone(),
            initramfs: Some(self.initramfs.clone()),
            command_line: String::new(),
            disks: vec![DiskSpec { path: disk }],
            memory,
        })
    }

    /// From nothing to the first line of the loop.
    pub async fn boot(&self) -> anyhow::Result<(Duration, Arc<dyn Machine>)> {
        let begin = Instant::now();
        let (disk, memory) = (self.dir.join("disk"), self.dir.join("memory"));
        let _ = std::fs::remove_file(&disk);
        let _ = std::fs::remove_file(&memory);
        files::reflink(&self.image, &disk)?;
        let machine = self.driver.boot(self.spec(disk, memory)?).await?;
        echo(&machine).await?;
        Ok((begin.elapsed(), machine))
    }

    /// Writes a guest down; how long the VMM needs for its device state alone, and for all of it.
    pub async fn save(&self, machine: &Arc<dyn Machine>) -> anyhow::Result<Saved> {
        let (memory, disk) = (self.dir.join("saved.memory"), self.dir.join("saved.disk"));
        for file in [&memory, &disk] {
            let _ = std::fs::remove_file(file);
        }
        machine.pause().await?;
        files::reflink(&machine.record().memory, &memory)?;
        let (dir, pending) = self.begin_capture(machine, "saved.state", memory.clone()).await?;
        let taken = pending.take().await?;
        let state = DeviceState { dir, files: taken.state_files() };
        taken.finish().await?;
        files::reflink(&self.dir.join("disk"), &disk)?;
        machine.kill(GONE).await?;
        Ok(Saved { state, memory, disk })
    }

    /// Begins a capture of a machine into this copy of its memory and an empty directory of this name.
    async fn begin_capture(
        &self,
        machine: &Arc<dyn Machine>,
        name: &str,
        memory: PathBuf,
    ) -> anyhow::Result<(PathBuf, Box<dyn PendingCapture>)> {
        let state_dir = self.dir.join(name);
        let _ = std::fs::remove_dir_all(&state_dir);
        std::fs::create_dir(&state_dir)?;
        let request = CaptureRequest { state_dir: state_dir.clone(), memory, held_bytes_max: 0 };
        Ok((state_dir, machine.begin_capture(request).await?))
    }

    /// From a written-down guest to the next line of its loop.
    pub async fn restore(&self, saved: &Saved) -> anyhow::Result<(Duration, Arc<dyn Machine>)> {
        let begin = Instant::now();
        let machine = self.load(saved).await?;
        machine.resume().await?;
        echo(&machine).await?;
        Ok((begin.elapsed(), machine))
    }

    /// A written-down guest, loaded; it stands still.
    async fn load(&self, saved: &Saved) -> anyhow::Result<Arc<dyn Machine>> {
        let disk = self.dir.join(format!("disk{}", self.count.get()));
        let _ = std::fs::remove_file(&disk);
        files::reflink(&saved.disk, &disk)?;
        Ok(self.driver.restore(self.spec(disk, saved.memory.clone())?, saved.state.clone()).await?)
    }

    /// From a paused capsule's files, in this directory, to the end of a command asked of its envd.
    pub async fn come_back(&self, capture: &Path) -> anyhow::Result<Back> {
        let netns = self.netns.as_ref().context("the namespace is there until the end")?;
        let links = Links::inside(netns)?;
        netns.run(|| tap::open(BACK_TAP))?;
        links.set_mac(BACK_TAP, GATEWAY_MAC).await?;
        links.configure(BACK_TAP, GATEWAY_ADDR, LINK_PREFIX).await?;
        links.neighbour(BACK_TAP, GUEST_ADDR, GUEST_MAC).await?;
        let guest = Guest::paused(&self.name, capture)?;
        let begin = Instant::now();
        let (disk, memory) = (self.dir.join("back.disk"), capture.join("memory"));
        files::reflink(&capture.join("disk"), &disk)?;
        let spec = self.spec_on(BACK_TAP, GUEST_MAC, disk.clone(), memory.clone())?;
        let machine = self.driver.restore(spec, captured_state(capture)?).await?;
        machine.resume().await?;
        let mut envd = Direct::connect(&guest).await?;
        envd.run("/bin/echo", &["ready"]).await?;
        Ok(Back { took: begin.elapsed(), machine, envd, disk, memory })
    }

    /// What a pause has to do, with nobody to ask for it and nothing to note: how long it takes.
    pub async fn pause(&self, back: &mut Back) -> anyhow::Result<Duration> {
        let [memory, disk] = ["memory", "disk"].map(|name| self.dir.join(format!("paused.{name}")));
        for file in [&memory, &disk] {
            let _ = std::fs::remove_file(file);
        }
        let begin = Instant::now();
        let share = |from: &Path, to: &Path| {
            let (from, to) = (from.to_owned(), to.to_owned());
            tokio::task::spawn_blocking(move || files::reflink(&from, &to))
        };
        // What Wrenn does at once is done at once.
        let ready = async {
            share(&back.memory, &memory).await??;
            self.begin_capture(&back.machine, "paused.state", memory.clone()).await
        };
        let (ready, prepared) = tokio::join!(ready, back.envd.prepare());
        prepared?;
        back.machine.pause().await?;
        let (state, pending) = ready?;
        let (taken, shared) = tokio::join!(pending.take(), share(&back.disk, &disk));
        shared??;
        let taken = taken?;
        let files: Vec<PathBuf> = taken.state_files().iter().map(|name| state.join(name)).collect();
        taken.finish().await?;
        let sync = |file: &Path| std::fs::File::open(file)?.sync_all();
        std::thread::scope(|scope| {
            let large = scope.spawn(|| sync(&memory));
            files.iter().chain([&state, &disk, &self.dir]).try_for_each(|file| sync(file))?;
            large.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(begin.elapsed())
    }

    /// Ends a guest that came back.
    pub async fn end_back(&self, back: Back) -> anyhow::Result<()> {
        Self::end(back.machine).await?;
        let netns = self.netns.as_ref().context("the namespace is there until the end")?;
        Links::inside(netns)?.remove(BACK_TAP).await?;
        Ok(std::fs::remove_file(&back.disk)?)
    }

    /// How long the VMM needs to write down the state of a guest's devices, when there is no memory to be written.
    pub async fn save_devices(&self, saved: &Saved) -> anyhow::Result<Duration> {
        let machine = self.load(saved).await?;
        let memory = self.dir.join("again.memory");
        let _ = std::fs::remove_file(&memory);
        files::reflink(&saved.memory, &memory)?;
        let (_, pending) = self.begin_capture(&machine, "again.state", memory).await?;
        let begin = Instant::now();
        pending.take().await?.finish().await?;
        let took = begin.elapsed();
        Self::end(machine).await?;
        Ok(took)
    }

    /// How long the file system needs for so many new bytes, and for having them safe.
    pub fn write(&self, mib: usize) -> anyhow::Result<(Duration, Duration)> {
        let path = self.dir.join("written");
        let piece = vec![7u8; 1 << 20];
        let begin = Instant::now();
        let mut file = std::fs::File::create(&path)?;
        for _ in 0..mib {
            std::io::Write::write_all(&mut file, &piece)?;
        }
        let written = begin.elapsed();
        file.sync_all()?;
        let safe = begin.elapsed();
        std::fs::remove_file(&path)?;
        Ok((written, safe))
    }

    /// Ends a machine.
    pub async fn end(machine: Arc<dyn Machine>) -> anyhow::Result<()> {
        Ok(machine.kill(GONE).await?)
    }
}

/// Device state of a capsule's capture.
fn captured_state(capture: &Path) -> anyhow::Result<DeviceState> {
    let dir = capture.join("state");
    let names = std::fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    Ok(DeviceState { files: names.collect::<std::io::Result<_>>()?, dir })
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.netns = None;
        if let Err(error) = netns::remove(&self.name) {
            eprintln!("the floor's namespace does not go: {error}");
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn echo(machine: &Arc<dyn Machine>) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT;
    while !String::from_utf8_lossy(&machine.console().await).contains("ECHO ") {
        ensure!(Instant::now() < deadline, "the floor's guest said nothing");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
