//! The machine envd may change: kernel generator, clock, names, resolver, root file system.
//!
//! Switched off as a whole by `--no-system`, so that a test can never change the host it runs on.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use sha2::{Digest, Sha256};
use wrenn_linux::{SyscallError, clock, entropy, ext4};

/// Nanoseconds the clock may differ before it is stepped: setting it by a timestamp that has travelled would make a
/// clock that is right already worse.
const CLOCK_TOLERANCE_NS: i64 = 2_000_000;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct System {
    touch: bool,
}

impl System {
    /// The machine envd runs on, to be changed.
    pub fn own() -> Self {
        Self { touch: true }
    }

    /// The machine envd runs on, to be left alone.
    pub fn untouched() -> Self {
        Self { touch: false }
    }

    pub(super) fn kernel_version(&self) -> String {
        let name = nix::sys::utsname::uname();
        name.map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// False when switched off.
    pub(super) fn reseed(&self, bytes: &[u8]) -> Result<bool, SyscallError> {
        if self.touch {
            entropy::credit_and_reseed(bytes)?;
        }
        Ok(self.touch)
    }

    /// Returns guest clock minus `unix_ns`.
    pub(super) fn step_clock(&self, unix_ns: i64) -> Result<i64, SyscallError> {
        let offset = clock::now_ns().saturating_sub(unix_ns);
        if self.touch && offset.saturating_abs() > CLOCK_TOLERANCE_NS {
            clock::step_to(unix_ns)?;
        }
        Ok(offset)
    }

    /// Follows from the sandbox's id: the same after every pause, another one in every copy. Random without an id.
    pub(super) fn set_machine_id(&self, sandbox_id: Option<&str>) -> io::Result<()> {
        if !self.touch {
            return Ok(());
        }
        let mut id = [0u8; 16];
        match sandbox_id {
            Some(name) => id.copy_from_slice(&Sha256::digest(format!("wrenn machine-id {name}"))[..16]),
            None => io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut id)?,
        }
        put("/etc/machine-id", &format!("{}\n", hex::encode(id)))
    }

    /// Also makes the name resolvable: sudo looks it up on every call.
    pub(super) fn set_hostname(&self, name: &str) -> io::Result<()> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if !self.touch || name.is_empty() || name.len() > 63 || !name.bytes().all(valid) {
            return Ok(());
        }
        wrenn_linux::hostname::set(name).map_err(|error| error.source)?;
        put("/etc/hostname", &format!("{name}\n"))?;
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let mut lines: Vec<&str> = hosts.lines().filter(|line| !line.starts_with("127.0.1.1")).collect();
        let own = format!("127.0.1.1 {name}");
        lines.push(&own);
        put("/etc/hosts", &(lines.join("\n") + "\n"))
    }

    pub(super) fn set_dns(&self, servers: &[IpAddr]) -> io::Result<()> {
        if !self.touch {
            return Ok(());
        }
        let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        put("/etc/resolv.conf", &text)
    }

    pub(super) fn grow_root(&self) -> Result<(), SyscallError> {
        if self.touch { ext4::grow_to_device(Path::new("/")) } else { Ok(()) }
    }

    pub(super) fn root_bytes(&self) -> Result<u64, SyscallError> {
        ext4::size_bytes(Path::new("/"))
    }

    /// Everything on disk and free blocks given back, so that a snapshot of the disk is small and whole.
    ///
    /// Caches are kept: dropping them empties no disk, and the restored guest would pay for it with reads. What they
    /// cost a memory snapshot is the host's to decide, which sees clean pages for what they are.
    pub fn settle_disk(&self) {
        if !self.touch {
            return;
        }
        ext4::sync_all();
        match ext4::trim(Path::new("/")) {
            Ok(bytes) => tracing::debug!(bytes, "trimmed the root file system"),
            Err(error) => {
                tracing::debug!(%error, source = %error.source, "the root device cannot discard")
            }
        }
    }
}

/// Writes only what changes: every write of a guest that comes back is a page and a block of its own.
fn put(path: &str, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    fs::write(path, text)
}
