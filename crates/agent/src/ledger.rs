//! What was begun for a sandbox, on disk before it is done. A successor reads it and knows what to take over, finish or
//! remove.
//!
//! ```text
//! begun -> ready <-> pausing -> paused -> ready     (each written before the step it names is taken)
//!            \--> crashed -> ready                   a crashed one can boot again from its disk
//! any -> deleting, then the directory itself goes
//! ```
//! What is written is synced, but for three: begun promises nothing yet; pausing and ready of a start only have to outlast this process at
//! first, because a power cut ends every VM anyway. What those two replaced stays beside them: a power cut that leaves the name but not
//! the bytes leaves a crashed sandbox with its disk. Ready is synced when the guest was handed out (docs/decisions/0010).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wrenn_domain::ids::SandboxId;
use wrenn_linux::files;
use wrenn_vmm::Record;

use crate::disk_kind::DiskKind;

const FILE: &str = "ledger.json";
/// Extension of what was replaced and was synced.
const BEFORE: &str = "before";
/// Bytes of a ledger; a spec with a large environment is the longest.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How far a sandbox has come. A new step must say in `sandbox/recovery.rs` what its kill leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Accepted: network, disk, memory and VMM may exist.
    Begun,
    /// Handed out.
    Ready,
    /// Being written down; it runs on unless the capture of this generation counts.
    Pausing,
    /// Nothing runs; the capture of this generation is the sandbox.
    Paused,
    /// The VM ended by itself; the disk is the sandbox.
    Crashed,
    /// Everything of it goes.
    Deleting,
}

/// Request for a sandbox, as it is now: a resume may change its time-out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub id: SandboxId,
    pub template: String,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub timeout_sec: u32,
    pub default_user: String,
    pub default_env: BTreeMap<String, String>,
    /// Start from this snapshot instead of the template's image.
    #[serde(default)]
    pub snapshot: Option<String>,
}

impl SandboxSpec {
    /// Makes a request for a sandbox of no template and no size, to be filled in.
    pub fn empty(id: SandboxId) -> Self {
        Self {
            id,
            template: String::new(),
            vcpus: 0,
            memory_mib: 0,
            disk_mib: 0,
            timeout_sec: 0,
            default_user: String::new(),
            default_env: BTreeMap::new(),
            snapshot: None,
        }
    }
}

/// One sandbox's ledger.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Request for the sandbox; agents before this one called it a wish.
    #[serde(alias = "wish")]
    pub spec: SandboxSpec,
    pub step: Step,
    /// Network slot, once taken.
    pub slot: Option<u32>,
    /// envd's access token, hex. Never logged: this type has no Debug form.
    pub token: String,
    /// The running VMM, once started.
    pub machine: Option<Record>,
    /// Unix ms at which its guest was let go or booted.
    pub started_at_ms: i64,
    /// Versions for the report.
    pub metadata: BTreeMap<String, String>,
    /// Number of the newest capture; grows with every pause.
    #[serde(default)]
    pub generation: u64,
    /// Names this run of the VM to the guest.
    #[serde(default)]
    pub lifecycle: String,
    /// Default working directory the guest was given, for a boot from its disk.
    #[serde(default)]
    pub workdir: String,
    /// Version of the image its disk descends from.
    #[serde(default)]
    pub image: String,
    /// Kinds of its disks, in the order in which its guest sees them.
    #[serde(default = "one_disk")]
    pub disks: Vec<DiskKind>,
    /// Checksum of the memory file its VM is mapped over.
    #[serde(default)]
    pub memory_checksum: u64,
    /// Set for the child of a fork until it runs for the first time: whichever agent finds it starts it.
    #[serde(default, alias = "unborn")]
    pub never_started: bool,
    /// Why its VM ended, fit for the user.
    #[serde(default)]
    pub crash: String,
}

/// Disks of a sandbox whose ledger is older than the choice.
fn one_disk() -> Vec<DiskKind> {
    vec![DiskKind::default()]
}

/// Returns the path of a sandbox's capture of one generation.
pub fn capture_dir(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("capture-{generation}"))
}

/// A ledger could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} {}", path.display())]
pub struct LedgerError {
    act: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError { act, path, source }
}

/// Makes a sandbox's newest ledger outlast a power cut. Blocks while the disk writes.
///
/// # Errors
/// The disk does not take it.
pub fn settle(dir: &Path) -> Result<(), LedgerError> {
    let path = dir.join(FILE);
    let synced = std::fs::File::open(&path).and_then(|file| file.sync_all()).and_then(|()| files::sync_directory(dir));
    synced.map_err(failed("sync", &path))?;
    let before = path.with_extension(BEFORE);
    match std::fs::remove_file(&before) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", &before)(error)),
        _ => Ok(()),
    }
}

impl Ledger {
    /// Begins the ledger of a request just taken.
    pub fn begin(spec: SandboxSpec, token: String) -> Self {
        Self {
            spec,
            step: Step::Begun,
            slot: None,
            token,
            machine: None,
            started_at_ms: 0,
            metadata: BTreeMap::new(),
            generation: 0,
            lifecycle: String::new(),
            workdir: String::new(),
            image: String::new(),
            disks: one_disk(),
            memory_checksum: 0,
            never_started: false,
            crash: String::new(),
        }
    }

    /// Writes the ledger into the sandbox's directory. Blocks.
    ///
    /// # Errors
    /// The disk has no room or fails.
    pub fn write(&self, dir: &Path) -> Result<(), LedgerError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        let put = |bytes: Vec<u8>| match self.step {
            Step::Begun => files::replace_unsynced(&path, &bytes),
            Step::Pausing => files::exchange_unsynced(&path, &bytes, BEFORE),
            Step::Ready | Step::Paused | Step::Crashed | Step::Deleting => files::replace(&path, &bytes),
        };
        bytes.and_then(put).map_err(failed("write", &path))
    }

    /// Writes that the guest is ready, for the agent after this one; [`settle`] makes it outlast a power cut.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn hand_out(&self, dir: &Path) -> Result<(), LedgerError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        bytes.and_then(|bytes| files::exchange_unsynced(&path, &bytes, BEFORE)).map_err(failed("write", &path))
    }

    /// Returns the path of the newest capture.
    pub fn capture_dir(&self, dir: &Path) -> PathBuf {
        capture_dir(dir, self.generation)
    }

    /// Reads a sandbox's ledger. It may be half-written or another sandbox's: everything is checked.
    ///
    /// # Errors
    /// There is none, or it cannot be used and neither can what it replaced.
    pub fn read(dir: &Path, id: SandboxId) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let failure = match Self::read_from(&path, id) {
            Ok(ledger) => return Ok(ledger),
            Err(failure) => failure,
        };
        // It was running when the power was cut: its disk is what there is.
        match Self::read_from(&path.with_extension(BEFORE), id) {
            Ok(mut before) if path.exists() => {
                before.step = Step::Crashed;
                (before.slot, before.machine) = (None, None);
                "the host lost its power".clone_into(&mut before.crash);
                Ok(before)
            }
            _ => Err(failure),
        }
    }

    /// Whether a power cut came before anything was promised: the name is there and no bytes are.
    pub fn is_blank(dir: &Path) -> bool {
        let path = dir.join(FILE);
        let is_short = path.metadata().is_ok_and(|found| found.len() <= BYTES_MAX);
        is_short && std::fs::read(&path).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    }

    /// Parses the bytes of a ledger file, of this version or an older one.
    ///
    /// # Errors
    /// The bytes are torn or no ledger.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    fn read_from(path: &Path, id: SandboxId) -> Result<Self, LedgerError> {
        let read = (|| {
            if path.metadata()?.len() > BYTES_MAX {
                return Err(std::io::Error::other("too long for a ledger"));
            }
            let ledger = Self::parse(&std::fs::read(path)?).map_err(std::io::Error::other)?;
            if ledger.spec.id != id {
                return Err(std::io::Error::other("it is another sandbox's"));
            }
            Ok(ledger)
        })();
        read.map_err(failed("read", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_was_handed_out_just_before_a_power_cut_keeps_its_disk() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let id = SandboxId::from_uuid(uuid::Uuid::new_v4());
        let spec = SandboxSpec { template: "minimal".to_owned(), ..SandboxSpec::empty(id) };
        let mut ledger = Ledger::begin(spec, "token".to_owned());
        (ledger.step, ledger.generation) = (Step::Paused, 3);
        ledger.write(dir).unwrap();
        let read =
            |what: &str| Ledger::read(dir, id).map(|ledger| ledger.step).map_err(|error| format!("{what}: {error}"));
        // A file beside it says nothing before the exchange.
        std::fs::write(dir.join("ledger.before"), "{half").unwrap();
        assert_eq!(read("paused").unwrap(), Step::Paused);
        ledger.step = Step::Ready;
        ledger.hand_out(dir).unwrap();
        assert_eq!(read("handed out").unwrap(), Step::Ready);
        // The name is on disk, the bytes are not.
        std::fs::write(dir.join("ledger.json"), "").unwrap();
        assert_eq!(read("cut").unwrap(), Step::Crashed);
        ledger.write(dir).unwrap();
        settle(dir).unwrap();
        assert!(!dir.join("ledger.before").exists());
        std::fs::write(dir.join("ledger.json"), "").unwrap();
        read("odd").unwrap_err();
        assert!(Ledger::is_blank(dir));
        std::fs::write(dir.join("ledger.json"), "{half").unwrap();
        assert!(!Ledger::is_blank(dir));
    }
}
