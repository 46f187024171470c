//! What a live VMM may do and see, read from the kernel and compared with a written list: nothing of ours beside it.
//!
//! Every driver must pass it: what depends on the driver are the names in its root.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use wrenn_vmm::Machine;

use super::harness::{Bench, hears};

const GONE: Duration = Duration::from_secs(10);
/// Entries of a VMM's root at most: some are there only with hardware virtualisation or on some hosts.
const ROOT: [&str; 11] = ["dev", "disk", "etc", "initramfs", "kernel", "lib", "lib64", "memory", "run", "usr", "opt"];
const DEVICES: [&str; 3] = ["kvm", "null", "urandom"];

/// Reads one line of /proc/PID/status.
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn namespace(pid: i32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

fn names(dir: &str) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn check(bench: &Bench, machine: &dyn Machine) {
    let pid = machine.record().process.pid;
    let own = std::process::id().cast_signed();
    let user = bench.user().to_string();
    for ids in ["Uid", "Gid"] {
        assert_eq!(status(pid, ids), [user.as_str(); 4].join(" "), "{ids}");
    }
    assert_eq!(status(pid, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2", "the VMM filters its own system calls");
    for kind in ["mnt", "pid", "ipc", "uts", "net"] {
        assert_ne!(namespace(pid, kind), namespace(own, kind), "{kind}");
    }
    let network = format!("net:[{}]", fs::metadata(format!("/run/netns/{}", bench.network())).unwrap().ino());
    assert_eq!(namespace(pid, "net"), network, "it is in its sandbox's network");
    assert!(status(pid, "NSpid").ends_with(" 1"), "the only process it sees is itself");

    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environment, format!("VMM_OF_WRENN={}\0", bench.dir.path().display()).as_bytes());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"));

    let root = format!("/proc/{pid}/root");
    let found = names(&root);
    let foreign: Vec<&String> = found.iter().filter(|name| !ROOT.contains(&name.as_str())).collect();
    assert!(foreign.is_empty(), "its root holds {foreign:?}");
    let devices = names(&format!("{root}/dev"));
    assert!(devices.iter().all(|name| DEVICES.contains(&name.as_str())), "its devices are {devices:?}");
    assert_eq!(fs::metadata(format!("{root}/disk")).unwrap().uid(), bench.user());

    // One line a mount: options of the mount are the sixth field. What it may write are its disk, its memory and its scratch directory.
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (at, options) = (fields[4], fields[5].split(',').collect::<BTreeSet<_>>());
        assert!(options.contains("nosuid"), "{mount}");
        let writable = ["/disk", "/memory", "/run"].contains(&at);
        assert!(writable || options.contains("ro"), "{mount}");
        assert!(at == "/" || options.contains("nodev"), "{mount}");
    }

    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // One that was closed meanwhile is none.
        let Ok(target) = fs::read_link(descriptor.unwrap().path()) else { continue };
        let target = target.display().to_string();
        let allowed = [
            "socket:",
            "anon_inode:",
            "pipe:",
            "/dev/null",
            "/null",
            "/dev/net/tun",
            "/dev/urandom",
            "/disk",
            "/memory",
            "/dev/kvm",
            "/memfd:",
        ];
        let inside = allowed.iter().any(|begin| target.starts_with(begin));
        // Opened by us, so it keeps the name it has here: the FIFO for what it prints.
        let log = Path::new(&target).file_name().is_some_and(|name| name == "vmm.log");
        let own_files = target.starts_with(&bench.dir.path().display().to_string());
        assert!(inside || log || own_files, "it holds {target} open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_has_only_what_it_was_given() {
    let Some(bench) = Bench::new("confined").await else { return };
    let machine = bench.boot("a").await;
    hears(&machine, 1).await;
    check(&bench, &*machine);
    machine.kill(GONE).await.unwrap();
}

/// One that waited gets its files into the root it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_waited_has_only_what_it_was_given() {
    let Some(bench) = Bench::new("confinedlate").await else { return };
    let machine = bench.boot("a").await;
    let at = hears(&machine, 1).await;
    machine.pause().await.unwrap();
    let (state, memory, _) = super::memory::capture(&bench, &machine, "one").await;
    machine.kill(GONE).await.unwrap();
    let spec = bench.spec("b", memory);
    let waiting = bench.driver.prestart().expect("this QEMU can wait").start(spec.frame).await.unwrap();
    let machine = waiting.restore(spec.disks, spec.memory, state).await.unwrap();
    machine.resume().await.unwrap();
    hears(&machine, at.count).await;
    check(&bench, &*machine);
    machine.kill(GONE).await.unwrap();
}

/// What a guest has its VMM print without end stays in the kernel's 64 KiB, and the machine goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_vmm_prints_is_bounded_and_stops_nobody() {
    let Some(bench) = Bench::new("prints").await else { return };
    let machine = bench.boot("a").await;
    let at = hears(&machine, 1).await;
    let pid = machine.record().process.pid;
    // As the VMM would: through its own standard error, which does not wait.
    let mut printed = 0;
    let error_output = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/2")).unwrap();
    nix::fcntl::fcntl(&error_output, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    while let Ok(bytes) = std::io::Write::write(&mut (&error_output), &[b'x'; 4096]) {
        printed += bytes;
        assert!(printed <= 1 << 20, "the FIFO takes more than 1 MiB");
    }
    assert!(printed >= 4096);
    hears(&machine, at.count + 1).await;
    assert_eq!(fs::metadata(bench.path("vmm.log")).unwrap().len(), 0, "nothing of it is on the disk");
    machine.kill(GONE).await.unwrap();
}
