//! The command line of a machine: a value made without touching the host.

use std::ffi::OsString;
use std::path::Path;

use crate::{Acceleration, Spec};

/// Console bytes QEMU keeps; a power of two.
pub const CONSOLE_BYTES: usize = 64 * 1024;

/// How a machine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// From its kernel, with empty memory.
    Boot,
    /// From device state that is awaited, with a capture's memory; paused.
    Restore,
}

/// What the host offers.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub acceleration: Acceleration,
    /// Frequency of the time stamp counter, kHz.
    pub tsc_khz: u64,
    /// The VMM can map a file for writing that it has opened for reading only (QEMU 8.2 and later).
    pub maps_read_only: bool,
}

/// Numbers of inherited files.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    pub qmp: i32,
    pub tap: i32,
}

/// Everything after the program's name.
pub fn command_line(spec: &Spec, host: Host, begin: Begin, files: Files) -> Vec<OsString> {
    let (accel, cpu) = match host.acceleration {
        Acceleration::Kvm => ("kvm", "host"),
        Acceleration::Tcg => ("tcg,thread=multi", "max"),
    };
    // A VMM taken over by its guest must not write into memory that others start from.
    let read_only = if begin == Begin::Restore && host.maps_read_only { ",readonly=on,rom=off" } else { "" };
    let mac = spec.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut args: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: String| args.extend([OsString::from(name), OsString::from(value)]);
    option("-machine", "microvm,acpi=on,rtc=on,pcie=off,memory-backend=memory0,suppress-vmdesc=on".into());
    option("-accel", accel.into());
    option("-cpu", cpu.into());
    option("-smp", spec.vcpus.to_string());
    option("-m", format!("{}M", spec.memory_mib));
    let path = escaped(&spec.memory);
    let size = spec.memory_mib;
    option("-object", format!("memory-backend-file,id=memory0,size={size}M,share=off{read_only},mem-path={path}"));
    // Device state is written without memory, and such a stream has no such head.
    option("-global", "migration.send-configuration=off".into());
    // A restored guest has its kernel in memory.
    if begin == Begin::Boot {
        option("-kernel", spec.kernel.display().to_string());
        if let Some(initramfs) = &spec.initramfs {
            option("-initrd", initramfs.display().to_string());
        }
        option("-append", kernel_command_line(spec, host));
    }
    let path = escaped(&spec.disk);
    option("-blockdev", format!("driver=raw,node-name=disk0,discard=unmap,file.driver=file,file.filename={path}"));
    option("-device", "virtio-blk-device,drive=disk0,discard=on".into());
    option("-netdev", format!("tap,id=net0,fd={}", files.tap));
    option("-device", format!("virtio-net-device,netdev=net0,mac={mac}"));
    option("-object", "rng-random,id=rng0,filename=/dev/urandom".into());
    option("-device", "virtio-rng-device,rng=rng0".into());
    if spec.balloon {
        option("-device", "virtio-balloon-device,id=balloon0,deflate-on-oom=on".into());
    }
    option("-chardev", format!("ringbuf,id=console0,size={CONSOLE_BYTES}"));
    option("-serial", "chardev:console0".into());
    option("-chardev", format!("socket,id=qmp0,fd={},server=on,wait=off", files.qmp));
    option("-mon", "chardev=qmp0,mode=control".into());
    option("-display", "none".into());
    // A VMM taken over by its guest starts no programs and gains no rights.
    option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown"].map(OsString::from));
    if begin == Begin::Restore {
        args.extend(["-incoming", "defer", "-S"].map(OsString::from));
    }
    args
}

/// A software-run guest counts the host's time stamps but cannot find out how fast they are: its calibration against a
/// timer that is emulated in bursts fails, and the kernel then waits for a tick that never comes. So it is told.
fn kernel_command_line(spec: &Spec, host: Host) -> String {
    let mut line = String::from("console=ttyS0 root=/dev/vda rw reboot=t panic=-1 quiet loglevel=1 ");
    if host.acceleration == Acceleration::Tcg {
        // Mitigations guard against a speculating processor; a translated guest does not run on one directly.
        line.push_str(&format!("tsc_early_khz={} mitigations=off ", host.tsc_khz));
    }
    line.push_str(&spec.command_line);
    line.trim_end().to_owned()
}

/// A path inside an option list: a comma is written twice.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
