//! First process of a guest, in both of its stages.
//!
//! As `/init` of the initramfs it loads the virtio modules, mounts the root disk and hands over to its copy there. As
//! `/usr/local/bin/wrenn-init` of the root file system it mounts what Linux programs expect, brings the network up and
//! becomes `tini -- envd`.
//!
//! Every step is best effort and says on the console what failed: a guest without a network can still be looked at.
//! Must never: fork on the way to envd (10 ms each without hardware virtualisation), or wait for anything but the disk.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use wrenn_linux::{boot, kmod, link};

/// Where the initramfs keeps its modules; their names begin with their place in the order.
const MODULES: &str = "/modules";
/// Where the initramfs mounts the root disk.
const NEW_ROOT: &str = "/root";
const DISK: &str = "/dev/vda";
/// The disk is there as soon as its driver is; this bounds a slow or wrong host.
const DISK_WAIT_MAX: Duration = Duration::from_secs(20);
const SELF_ON_DISK: &str = "/usr/local/bin/wrenn-init";
const ENVD: &str = "/usr/local/bin/envd";
const TINI: [&str; 3] = ["/usr/bin/tini-static", "/usr/bin/tini", "/sbin/tini"];
const HOSTNAME: &str = "capsule";
const ENVIRONMENT: [&str; 3] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"];

fn main() {
    if nix::unistd::getpid().as_raw() != 1 {
        eprintln!("wrenn-init: this is the first process of a guest and does nothing elsewhere");
        std::process::exit(2);
    }
    if Path::new(MODULES).is_dir() {
        initramfs();
    } else {
        root_file_system();
    }
}

/// Stage one. Returns only on failure; the kernel then panics, which the host sees.
fn initramfs() {
    mount_kernel_file_systems("");
    load_modules();
    if let Err(error) = wait_for_disk() {
        say(&error);
        return;
    }
    let options = Some("errors=remount-ro");
    if let Err(error) = mount(Some(DISK), NEW_ROOT, Some("ext4"), MsFlags::MS_NOATIME, options) {
        say(&format!("mount {DISK}: {error}"));
        return;
    }
    for place in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{place}");
        report(&format!("move {place}"), mount(Some(place), target.as_str(), none(), MsFlags::MS_MOVE, none()));
    }
    // The initramfs lives in memory: what is not deleted is lost to the guest for good.
    let _ = fs::remove_dir_all(MODULES);
    let _ = fs::remove_file("/init");
    report("enter the root disk", nix::unistd::chdir(NEW_ROOT));
    report("move the root disk to /", mount(Some("."), "/", none(), MsFlags::MS_MOVE, none()));
    report("change root", nix::unistd::chroot("."));
    report("enter /", nix::unistd::chdir("/"));
    become_program(&[SELF_ON_DISK]);
}

/// Stage two. Returns only on failure.
fn root_file_system() {
    mount_kernel_file_systems("");
    let nosuid = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_new("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
    mount_new("tmpfs", "/dev/shm", nosuid, "mode=1777");
    mount_new("tmpfs", "/run", nosuid, "mode=755,size=64m");
    mount_new("tmpfs", "/tmp", nosuid, "mode=1777");
    mount_new("cgroup2", "/sys/fs/cgroup", nosuid | MsFlags::MS_NOEXEC, "nsdelegate");
    report("create /run/lock", fs::create_dir_all("/run/lock"));
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, link);
    }
    for controller in ["+cpu", "+memory", "+io", "+pids"] {
        report(controller, fs::write("/sys/fs/cgroup/cgroup.subtree_control", controller));
    }
    report("set the host name", nix::unistd::sethostname(HOSTNAME));
    network();
    start_clock_daemon();
    let tini = TINI.into_iter().find(|path| Path::new(path).exists());
    match tini {
        Some(tini) => become_program(&[tini, "--", ENVD]),
        None => become_program(&[ENVD]),
    }
}

fn mount_kernel_file_systems(root: &str) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    if !Path::new("/proc/self").exists() {
        mount_new("proc", &format!("{root}/proc"), flags, "");
    }
    if !Path::new("/sys/kernel").exists() {
        mount_new("sysfs", &format!("{root}/sys"), flags, "");
    }
    if !Path::new("/dev/null").exists() {
        mount_new("devtmpfs", &format!("{root}/dev"), MsFlags::MS_NOSUID, "mode=755");
    }
}

/// Loads what the machine can use: without a PCI bus its five modules would be time spent for nothing.
fn load_modules() {
    let pci = fs::read_dir("/sys/bus/pci/devices").is_ok_and(|mut devices| devices.next().is_some());
    let mut names: Vec<_> = match fs::read_dir(MODULES) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
        Err(error) => return say(&format!("read {MODULES}: {error}")),
    };
    names.sort();
    for name in names {
        let name = name.to_string_lossy();
        if !pci && name.contains("pci") {
            continue;
        }
        match fs::File::open(Path::new(MODULES).join(name.as_ref())) {
            Ok(file) => match kmod::load(&file, &name) {
                // The module is for a device or a hypervisor this machine does not have.
                Err(error) if matches!(error.source.raw_os_error(), Some(19 | 95)) => {}
                other => report(&name, other),
            },
            Err(error) => say(&format!("open module {name}: {error}")),
        }
    }
}

fn wait_for_disk() -> Result<(), String> {
    let began = Instant::now();
    while !Path::new(DISK).exists() {
        if began.elapsed() > DISK_WAIT_MAX {
            return Err(format!("no {DISK} after {} s", DISK_WAIT_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn network() {
    use wrenn_contract::guest::{GATEWAY_ADDR, GUEST_ADDR, LINK_PREFIX};
    report("lo", link::set_address("lo", Ipv4Addr::LOCALHOST, 8).and_then(|()| link::set_up("lo")));
    if !Path::new("/sys/class/net/eth0").exists() {
        return say("no eth0");
    }
    report("eth0", link::set_address("eth0", GUEST_ADDR, LINK_PREFIX).and_then(|()| link::set_up("eth0")));
    report("route", link::set_default_route(GATEWAY_ADDR));
}

/// chronyd follows the host's clock through /dev/ptp0. Without that device it has nothing to follow: envd sets the
/// clock at every boot and restore anyway.
fn start_clock_daemon() {
    if Path::new("/dev/ptp0").exists() && Path::new("/usr/sbin/chronyd").exists() {
        report("start chronyd", boot::start_after("/run/wrenn", "/usr/sbin/chronyd", &ENVIRONMENT));
    }
}

fn become_program(arguments: &[&str]) {
    let text = |part: &&str| CString::new(*part).unwrap_or_default();
    let arguments: Vec<CString> = arguments.iter().map(text).collect();
    let environment: Vec<CString> = ENVIRONMENT.iter().map(text).collect();
    let Err(error) = nix::unistd::execve(&arguments[0], &arguments, &environment);
    say(&format!("start {}: {error}", arguments[0].to_string_lossy()));
}

fn mount_new(kind: &str, place: &str, flags: MsFlags, options: &str) {
    let _ = fs::create_dir(place);
    let options = (!options.is_empty()).then_some(options);
    report(&format!("mount {kind} on {place}"), mount(Some(kind), place, Some(kind), flags, options));
}

fn none() -> Option<&'static str> {
    None
}

fn report<T, E: std::error::Error>(what: &str, result: Result<T, E>) {
    if let Err(error) = result {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        say(&format!("{what}: {error}{cause}"));
    }
}

fn say(text: &str) {
    // The console may be away; there is nowhere else to say it.
    let _ = writeln!(std::io::stderr(), "wrenn-init: {text}");
}
