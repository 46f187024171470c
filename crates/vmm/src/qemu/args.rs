//! Command line of a machine: a value made without touching the host.

use std::ffi::OsString;
use std::path::Path;

use crate::launch::{GivenFile, Use};
use crate::{Acceleration, DiskSpec, Frame, Spec, VmmError};

/// Console bytes QEMU keeps; a power of two.
pub const CONSOLE_BYTES: usize = 64 * 1024;

/// Begin is how a machine begins.
#[derive(Debug, Clone, Copy)]
pub enum Begin<'a> {
    /// Boots from its kernel, with empty memory.
    Boot(&'a Spec),
    /// Waits, paused, for device state, with a capture's memory.
    Restore(&'a Spec),
    /// Waits for memory and disk, then for device state.
    Prestart,
}

/// Paths in the root of a confined VMM.
pub const MEMORY_PATH: &str = "/memory";
pub const DISK_PATH: &str = "/disk";
pub const KERNEL_PATH: &str = "/kernel";
pub const INITRAMFS_PATH: &str = "/initramfs";

/// Names by which memory and disk are asked for.
pub const MEMORY: &str = "memory0";
pub const DISK: &str = "disk0";

/// Host is what a command line depends on besides the machine.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub acceleration: Acceleration,
    /// Frequency of the time stamp counter, kHz.
    pub tsc_khz: u64,
    /// The VMM can map a file for writing that it has opened for reading only (QEMU 8.2 and later).
    pub maps_read_only: bool,
}

/// Files are the numbers of inherited files.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    pub qmp: i32,
    pub tap: i32,
}

/// Files that a confined VMM is given at its start.
pub fn given_files(begin: Begin<'_>, maps_read_only: bool) -> Vec<GivenFile<'_>> {
    let (spec, mut files) = match begin {
        Begin::Prestart => return Vec::new(),
        Begin::Restore(spec) => (spec, vec![memory_file(&spec.memory, maps_read_only)]),
        Begin::Boot(spec) => {
            let memory = GivenFile { at: MEMORY_PATH, path: &spec.memory, used: Use::Own };
            let kernel = GivenFile { at: KERNEL_PATH, path: &spec.kernel, used: Use::Shared };
            let initramfs =
                spec.initramfs.as_deref().map(|path| GivenFile { at: INITRAMFS_PATH, path, used: Use::Shared });
            (spec, [memory, kernel].into_iter().chain(initramfs).collect())
        }
    };
    files.extend(spec.disks.iter().map(|disk| disk_file(&disk.path)));
    files
}

/// Memory of a capture as a confined VMM is given it.
pub fn memory_file(path: &Path, maps_read_only: bool) -> GivenFile<'_> {
    let used = if maps_read_only { Use::Shared } else { Use::SharedOpenedForWriting };
    GivenFile { at: MEMORY_PATH, path, used }
}

/// Disk as a confined VMM is given it.
pub fn disk_file(path: &Path) -> GivenFile<'_> {
    GivenFile { at: DISK_PATH, path, used: Use::Own }
}

/// Machine type of every guest.
pub const MACHINE: &str = "microvm,acpi=on,rtc=on,pcie=off";

/// Values of `-accel` and `-cpu`.
pub fn accelerator(acceleration: Acceleration) -> (&'static str, &'static str) {
    match acceleration {
        // No machines inside of machines, and no counters that see more than the guest.
        Acceleration::Hardware => ("kvm", "host,vmx=off,svm=off,pmu=off"),
        // Translated code is kept in MiB of the VMM's own memory, which the guest can fill.
        Acceleration::Software => ("tcg,thread=multi,tb-size=256", "max"),
    }
}

/// The only disk of a machine. One more would need a device that a prestarted VMM would have to have already.
///
/// # Errors
/// There is none, or more than one.
pub fn only_disk(disks: &[DiskSpec]) -> Result<&Path, VmmError> {
    match disks {
        [disk] => Ok(&disk.path),
        _ => Err(VmmError::new("start", format!("it has {} disks, and QEMU's driver takes one", disks.len()))),
    }
}

/// Arguments after the program's name. The disk of the spec is not looked for in it: [`only_disk`] found it.
pub fn command_line(frame: &Frame, host: Host, begin: Begin<'_>, files: Files) -> Vec<OsString> {
    let (accel, cpu) = accelerator(host.acceleration);
    // A VMM taken over by its guest must not write into memory that others start from.
    let read_only = if matches!(begin, Begin::Restore(_)) && host.maps_read_only { ",readonly=on,rom=off" } else { "" };
    let mac = frame.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut args: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: String| args.extend([OsString::from(name), OsString::from(value)]);
    let backend = if matches!(begin, Begin::Prestart) { String::new() } else { format!(",memory-backend={MEMORY}") };
    option("-machine", format!("{MACHINE},suppress-vmdesc=on{backend}"));
    option("-accel", accel.into());
    option("-cpu", cpu.into());
    option("-smp", frame.vcpus.to_string());
    option("-m", format!("{}M", frame.memory_mib));
    if let Begin::Boot(spec) | Begin::Restore(spec) = begin {
        let size = frame.memory_mib;
        option(
            "-object",
            format!("memory-backend-file,id={MEMORY},size={size}M,share=off{read_only},mem-path={MEMORY_PATH}"),
        );
        for _ in &spec.disks {
            option(
                "-blockdev",
                format!("driver=raw,node-name={DISK},discard=unmap,file.driver=file,file.filename={DISK_PATH}"),
            );
        }
    }
    // Device state is written without memory, and such a stream has no such head.
    option("-global", "migration.send-configuration=off".into());
    // A restored guest has its kernel in memory.
    if let Begin::Boot(spec) = begin {
        option("-kernel", KERNEL_PATH.into());
        if spec.initramfs.is_some() {
            option("-initrd", INITRAMFS_PATH.into());
        }
        option("-append", kernel_command_line(spec, host));
    }
    option("-device", format!("virtio-blk-device,drive={DISK},discard=on"));
    option("-netdev", format!("tap,id=net0,fd={}", files.tap));
    option("-device", format!("virtio-net-device,netdev=net0,mac={mac}"));
    option("-object", "rng-random,id=rng0,filename=/dev/urandom".into());
    option("-device", "virtio-rng-device,rng=rng0".into());
    option("-chardev", format!("ringbuf,id=console0,size={CONSOLE_BYTES}"));
    option("-serial", "chardev:console0".into());
    option("-chardev", format!("socket,id=qmp0,fd={},server=on,wait=off", files.qmp));
    option("-mon", "chardev=qmp0,mode=control".into());
    option("-display", "none".into());
    // A VMM taken over by its guest starts no programs and gains no rights.
    option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown"].map(OsString::from));
    if matches!(begin, Begin::Restore(_) | Begin::Prestart) {
        args.extend(["-incoming", "defer", "-S"].map(OsString::from));
    }
    if matches!(begin, Begin::Prestart) {
        args.push("-preconfig".into());
    }
    args
}

/// A software-run guest counts the host's time stamps but cannot find out how fast they are: its calibration against a
/// timer that is emulated in bursts fails, and the kernel then waits for a tick that never comes. So it is told. It is told to rely on
/// it, too: compared with its own ticks, which it misses while the host is busy, the counter seems to be wrong, and a guest that then
/// counts ticks loses seconds for good, with all that start from its memory.
fn kernel_command_line(spec: &Spec, host: Host) -> String {
    let mut line = String::from("console=ttyS0 root=/dev/vda rw reboot=t panic=-1 quiet loglevel=1 ");
    if host.acceleration == Acceleration::Software {
        // Mitigations guard against a speculating processor; a translated guest does not run on one directly.
        line.push_str(&format!("tsc_early_khz={} tsc=reliable mitigations=off ", host.tsc_khz));
    }
    line.push_str(&spec.command_line);
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;

    use super::*;

    fn spec() -> Spec {
        Spec {
            frame: Frame {
                vcpus: 2,
                memory_mib: 512,
                tap: File::open("/dev/null").unwrap().into(),
                mac: [2, 0xfc, 0, 0, 0, 1],
                run_dir: PathBuf::from("/run/wrenn-1a2b/cl-1"),
                log: PathBuf::from("/store/sandboxes/cl-1/vmm.log"),
                network: File::open("/dev/null").unwrap().into(),
                user: 0x7000_0001,
            },
            kernel: PathBuf::from("/kernels/vmlinux-6.12.1"),
            initramfs: Some(PathBuf::from("/kernels/initramfs-6.12.1")),
            command_line: "wrenn.test=1".to_owned(),
            disks: vec![DiskSpec { path: PathBuf::from("/store/a,b/disk") }],
            memory: PathBuf::from("/store/a,b/memory"),
        }
    }

    fn shown(acceleration: Acceleration, maps_read_only: bool, begin: fn(&Spec) -> Begin<'_>) -> String {
        let (spec, host) = (spec(), Host { acceleration, tsc_khz: 2_100_000, maps_read_only });
        let args = command_line(&spec.frame, host, begin(&spec), Files { qmp: 10, tap: 11 });
        // One option a line.
        args.iter().fold(String::new(), |text, arg| match arg.to_str().unwrap() {
            option if option.starts_with('-') => format!("{text}\n{option}"),
            value => format!("{text} {value}"),
        })
    }

    #[test]
    fn the_command_line_of_each_beginning_is_the_one_that_was_reviewed() {
        insta::assert_snapshot!("boot_software", shown(Acceleration::Software, false, |spec| Begin::Boot(spec)));
        insta::assert_snapshot!("boot_hardware", shown(Acceleration::Hardware, true, |spec| Begin::Boot(spec)));
        insta::assert_snapshot!("restore", shown(Acceleration::Hardware, true, |spec| Begin::Restore(spec)));
        insta::assert_snapshot!("prestart", shown(Acceleration::Hardware, true, |_| Begin::Prestart));
    }
}
