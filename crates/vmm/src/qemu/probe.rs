//! Whether this machine's KVM really runs guests. A device node proves nothing: nested or paravirtual hosts open it and
//! then never execute an instruction.

use std::path::Path;
use std::time::Duration;

use super::args::{MACHINE, accelerator};
use crate::Acceleration;

/// Longest time the test guest may take; under real KVM it ends within milliseconds.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// Probed is what was found out, for people.
#[derive(Debug, Clone)]
pub struct Probed {
    pub acceleration: Acceleration,
    pub detail: String,
    /// Advice for the operator; empty with KVM.
    pub remedy: String,
}

/// Acceleration that works here: reads what the processor offers and, where that is enough, runs a guest that switches itself off.
pub async fn acceleration(qemu: &Path) -> Probed {
    let without = |detail: String, remedy: &str| Probed {
        acceleration: Acceleration::Software,
        detail,
        remedy: remedy.to_owned(),
    };
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
    match run_guest(qemu, Acceleration::Hardware).await {
        Ok(()) => Probed {
            acceleration: Acceleration::Hardware,
            detail: "a test guest ran under KVM".into(),
            remedy: String::new(),
        },
        Err(why) => without(
            format!("/dev/kvm opens, but a test guest did not run ({why}); guests run in software"),
            "use a machine whose KVM runs stock guests",
        ),
    }
}

/// Code of the test guest, for 32 bits: it writes 0x10 to QEMU's exit port, which ends QEMU with a status nothing else has.
const CODE: [u8; 11] = [0xb0, 0x10, 0xba, 0xf4, 0x00, 0x00, 0x00, 0xee, 0xf4, 0xeb, 0xfd];
const EXIT_STATUS: &str = "exit status: 33";
/// Address of the code in the guest's memory.
const BASE: u32 = 0x10_0000;

/// Kernel of nothing but that code. It is entered as the guests' own is, through the note of its PVH entry: firmware, the
/// change into protected mode and the machine are those of a real guest.
fn kernel() -> Vec<u8> {
    const HEADER: u32 = 64;
    const SEGMENT: u32 = 56;
    const NOTE: u32 = HEADER + 2 * SEGMENT;
    const NOTE_SIZE: u32 = 20;
    let entry = BASE + NOTE + NOTE_SIZE;
    let size = NOTE + NOTE_SIZE + CODE.len() as u32;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fn put<const N: usize>(to: &mut Vec<u8>, numbers: [u32; N]) {
        to.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
    }
    // Executable for x86-64; entry, offset of the segments, no sections; sizes and the number of segments.
    put(&mut elf, [2 | 62 << 16, 1, entry, 0, HEADER, 0, 0, 0, 0, HEADER | SEGMENT << 16, 2, 0]);
    // All of it, loaded; then where in it the note is. Each: kind, flags, offset, two addresses, two sizes, alignment.
    put(&mut elf, [1, 7, 0, 0, BASE, 0, BASE, 0, size, 0, size, 0, 0x1000, 0]);
    put(&mut elf, [4, 4, NOTE, 0, BASE + NOTE, 0, BASE + NOTE, 0, NOTE_SIZE, 0, NOTE_SIZE, 0, 4, 0]);
    // XEN_ELFNOTE_PHYS32_ENTRY.
    put(&mut elf, [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry]);
    elf.extend(CODE);
    elf
}

/// Runs the test guest to its end.
async fn run_guest(qemu: &Path, acceleration: Acceleration) -> Result<(), String> {
    let image = std::env::temp_dir().join(format!("wrenn-probe-{}", std::process::id()));
    let _ = std::fs::remove_file(&image);
    // Never through a link somebody else has put there.
    let mut file = std::fs::File::create_new(&image).map_err(|e| e.to_string())?;
    std::io::Write::write_all(&mut file, &kernel()).map_err(|e| e.to_string())?;
    drop(file);
    let (accel, cpu) = accelerator(acceleration);
    let kernel = image.display().to_string();
    let args = [
        "-machine",
        MACHINE,
        "-accel",
        accel,
        "-cpu",
        cpu,
        "-m",
        "32M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
        "-kernel",
        &kernel,
    ];
    let ended = wrenn_linux::tool::run(qemu, &args, PROBE_WAIT).await;
    let _ = std::fs::remove_file(&image);
    match ended {
        Err(error) if error.to_string().contains(EXIT_STATUS) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("it ended early".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    /// Without KVM this is what can be seen of the probe: that its guest runs at all, so that a failure under KVM is KVM's.
    #[tokio::test]
    async fn the_test_guest_ends_qemu_with_its_status() {
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        let have = qemu.exists().then_some(()).ok_or("the Debian package qemu-system-x86 is not installed");
        if wrenn_testkit::require("qemu", have).is_none() {
            return;
        }
        run_guest(qemu, Acceleration::Software).await.unwrap();
    }
}
