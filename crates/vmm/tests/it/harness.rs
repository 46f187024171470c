//! Guest of nothing but a kernel and busybox that prints on its console what it knows, and the files and network it needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wrenn_linux::netns::{self, Netns};
use wrenn_linux::tap;
use wrenn_vmm::{DeviceState, DiskSpec, Driver, Frame, Machine, Spec, VmmChoice, VmmConfig, find_vmms};

const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Guests run in software here, beside other tests.
pub const WAIT: Duration = Duration::from_secs(60);
pub const MEMORY_MIB: u32 = 192;
/// User of these VMMs, which no agent gives to one of its own.
const USER: u32 = 0x7ffd_0000;

/// What the guest does: keeps random bytes in memory only, and says every tenth of a second how far it has counted and what
/// their checksum is. `dirty N` on the disk's first bytes makes it write N MiB more.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /dev /proc /sys /t
$b mount -t devtmpfs none /dev
$b mount -t proc none /proc
$b mount -t sysfs none /sys
for m in /modules/*; do $b insmod $m 2>/dev/null; done
$b mount -t tmpfs none /t
$b dd if=/dev/urandom of=/t/nonce bs=64k count=4 2>/dev/null
i=0
while :; do
  i=$((i+1))
  set -- $($b md5sum /t/nonce)
  echo "COUNT $i $1 $($b cat /sys/block/vda/size 2>/dev/null) END"
  $b sleep 0.1
done
"#;

/// Files and network of one test; removed with it.
pub struct Bench {
    pub dir: tempfile::TempDir,
    netns: Option<Netns>,
    name: String,
    kernel: PathBuf,
    pub driver: Arc<dyn Driver>,
}

impl Bench {
    /// Makes the bench; `None` where a guest cannot be made and the test may be skipped for that.
    pub async fn new(name: &str) -> Option<Self> {
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../builds/guest/kernels");
        let kernel = std::fs::read_dir(&kernels).ok().into_iter().flatten().flatten().map(|e| e.path());
        let kernel =
            kernel.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinux")));
        let kernel = kernel.filter(|_| Path::new(BUSYBOX).exists() && Path::new(QEMU).exists());
        let kernel = kernel.ok_or("a guest kernel, busybox or QEMU is missing; run `make images`");
        let kernel = wrenn_testkit::require("kernel", kernel)?;
        let dir = tempfile::Builder::new().prefix("wrenn-vmm-").tempdir_in("/var/tmp").unwrap();
        let config = VmmConfig { choice: VmmChoice::Qemu, qemu: QEMU.into(), owner: dir.path().to_owned() };
        let driver = wrenn_vmm::find(&config).await.unwrap().driver;
        make_initramfs(dir.path(), &kernels);
        let name = format!("wrenn-vmm-{name}-{}", std::process::id());
        let netns = Netns::create(&name).unwrap();
        Some(Self { dir, netns: Some(netns), name, kernel, driver })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A machine with a disk, tap and run directory of its own.
    pub fn spec(&self, name: &str, memory: PathBuf) -> Spec {
        let disk = self.path(&format!("{name}.disk"));
        if !disk.exists() {
            std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        }
        let run_dir = self.path(name);
        std::fs::create_dir_all(&run_dir).unwrap();
        Spec {
            frame: Frame {
                vcpus: 1,
                memory_mib: MEMORY_MIB,
                tap: self.netns.as_ref().unwrap().run(|| tap::open(&format!("tap-{name}"))).unwrap().into(),
                mac: [2, 0, 0, 0, 0, 1],
                run_dir,
                log: self.path("vmm.log"),
                network: self.netns.as_ref().unwrap().handle().unwrap(),
                user: USER,
            },
            kernel: self.kernel.clone(),
            initramfs: Some(self.path("initramfs")),
            command_line: String::new(),
            disks: vec![DiskSpec { path: disk }],
            memory,
        }
    }

    /// User its VMMs run as.
    pub fn user(&self) -> u32 {
        USER
    }

    /// Name of its network namespace.
    pub fn network(&self) -> &str {
        &self.name
    }

    /// VMMs of this bench with a file below this directory open.
    pub fn vmms_below(&self, dir: &Path) -> usize {
        find_vmms(self.dir.path(), dir).len()
    }

    /// A capture's device state.
    pub fn state(&self, name: &str) -> DeviceState {
        let dir = self.path(&format!("{name}.state"));
        let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        DeviceState { files: files.collect(), dir }
    }

    pub async fn boot(&self, name: &str) -> Arc<dyn Machine> {
        self.driver.boot(self.spec(name, self.path(&format!("{name}.memory")))).await.unwrap()
    }
}

impl Drop for Bench {
    /// Also after a test that failed: nothing it started may stay.
    fn drop(&mut self) {
        for machine in find_vmms(self.dir.path(), self.dir.path()) {
            let _ = wrenn_linux::process::kill_now(machine.pid);
        }
        self.netns = None;
        netns::remove(&self.name).unwrap();
    }
}

/// Said is what a guest said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub count: u64,
    pub nonce: String,
    pub sectors: u64,
}

/// Waits until the guest has counted beyond `count`.
pub async fn hears(machine: &Arc<dyn Machine>, count: u64) -> Said {
    let heard = tokio::time::timeout(WAIT, async {
        loop {
            if let Some(said) = last(machine).await.filter(|said| said.count > count) {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    match heard.await {
        Ok(said) => said,
        Err(_) => {
            let console = machine.console().await;
            let end = String::from_utf8_lossy(&console[console.len().saturating_sub(2000)..]).into_owned();
            panic!("the guest never counted beyond {count}; its console ends with: {end}")
        }
    }
}

pub async fn last(machine: &Arc<dyn Machine>) -> Option<Said> {
    let console = String::from_utf8_lossy(&machine.console().await).into_owned();
    let line = console.lines().rfind(|line| line.contains("COUNT ") && line.trim_end().ends_with("END"))?;
    let words: Vec<&str> = line[line.find("COUNT ")?..].split_whitespace().collect();
    Some(Said {
        count: words.get(1)?.parse().ok()?,
        nonce: (*words.get(2)?).to_owned(),
        sectors: words.get(3).and_then(|w| w.parse().ok()).unwrap_or(0),
    })
}

/// busybox packs the archive itself; the virtio modules come out of the real initramfs.
fn make_initramfs(dir: &Path, kernels: &Path) {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    std::fs::write(root.join("init"), INIT).unwrap();
    let real = std::fs::read_dir(kernels).unwrap().flatten().map(|e| e.path());
    let real = real.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("initramfs")));
    let modules = real.map_or(String::new(), |path| {
        format!(
            "(mkdir ../real && cd ../real && {BUSYBOX} cpio -i -d 2>/dev/null < {} && cp -r modules ../root/) && ",
            path.display()
        )
    });
    let script =
        format!("chmod 755 init && {modules}{BUSYBOX} find . | {BUSYBOX} cpio -o -H newc > ../initramfs 2>/dev/null");
    let made = std::process::Command::new("sh").arg("-c").arg(script).current_dir(&root).status().unwrap();
    assert!(made.success());
}
