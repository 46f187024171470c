//! Whether this machine's KVM really runs guests. A device node proves nothing: nested or paravirtual hosts open it and
//! then never execute an instruction.

use std::path::Path;
use std::time::Duration;

use crate::Acceleration;

/// A tiny guest ends within milliseconds under real KVM.
pub const PROBE_WAIT: Duration = Duration::from_secs(5);

/// What was found, for people.
#[derive(Debug, Clone)]
pub struct Probed {
    pub acceleration: Acceleration,
    pub detail: String,
    /// What to do; empty with KVM.
    pub remedy: String,
}

/// Looks at the processor and, where it could do it, runs a guest that switches itself off.
pub async fn acceleration(qemu: &Path) -> Probed {
    let without =
        |detail: String, remedy: &str| Probed { acceleration: Acceleration::Tcg, detail, remedy: remedy.to_owned() };
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = flags
        .lines()
        .filter(|l| l.starts_with("flags"))
        .any(|l| l.split_whitespace().any(|f| f == "vmx" || f == "svm"));
    if !can {
        return without(
            "the processor offers no virtualisation (no vmx or svm flag); guests run in software, some ten times slower".into(),
            "use a machine with hardware virtualisation, or switch nested virtualisation on for this VM",
        );
    }
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        return without(
            format!("/dev/kvm cannot be opened ({error})"),
            "load the kvm_intel or kvm_amd module and run as root",
        );
    }
    match run_guest(qemu).await {
        Ok(()) => Probed {
            acceleration: Acceleration::Kvm,
            detail: "a test guest ran under KVM".into(),
            remedy: String::new(),
        },
        Err(why) => without(
            format!("/dev/kvm opens, but a test guest did not run ({why}); guests run in software"),
            "use a machine whose KVM runs stock guests",
        ),
    }
}

/// A boot sector that writes to QEMU's exit port: it ends QEMU with status 33, which nothing else does.
const BOOT_SECTOR_CODE: [u8; 9] = [0xb0, 0x10, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd];
const EXIT_STATUS: &str = "exit status: 33";

async fn run_guest(qemu: &Path) -> Result<(), String> {
    let mut sector = [0u8; 512];
    sector[..BOOT_SECTOR_CODE.len()].copy_from_slice(&BOOT_SECTOR_CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let image = std::env::temp_dir().join(format!("wrenn-probe-{}", std::process::id()));
    std::fs::write(&image, sector).map_err(|e| e.to_string())?;
    let drive = format!("driver=raw,node-name=disk0,read-only=on,file.driver=file,file.filename={}", image.display());
    let args = [
        "-machine",
        "pc",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "16M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
        "-blockdev",
        &drive,
        "-device",
        "ide-hd,drive=disk0",
    ];
    let ended = wrenn_linux::tool::run(qemu, &args, PROBE_WAIT).await;
    let _ = std::fs::remove_file(&image);
    match ended {
        Err(error) if error.to_string().contains(EXIT_STATUS) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("it ended early".into()),
    }
}
