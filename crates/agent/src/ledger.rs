//! What was begun for a sandbox, on disk before it is done. A successor reads it and knows what to take over, finish or
//! remove.
//!
//! ```text
//! begun -> machine -> ready <-> pausing -> paused <-> resuming -> ready     (each written before the step it names is taken)
//!                       \--> crashed -> machine                             a crashed one can boot again from its disk
//! any -> deleting, then the directory itself goes
//! ```
//! A step that promises something (ready, paused, crashed) is synced; the others only have to outlast this process, because a
//! power cut ends every VM anyway. Ready is synced after the guest was handed out: until then what it replaced stays beside it, and a
//! power cut in between leaves a crashed sandbox with its disk (docs/decisions/0010).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wrenn_domain::ids::SandboxId;
use wrenn_linux::files;
use wrenn_vmm::Record;

const FILE: &str = "ledger.json";
/// Extension of what was replaced when the guest was handed out.
const BEFORE: &str = "before";
/// Bytes of a ledger; a wish with a large environment is the longest.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How far a sandbox has come. A new step must say in `sandbox/recovery.rs` what its kill leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Accepted: network, disk and memory may exist.
    Begun,
    /// The VMM may run.
    Machine,
    /// Handed out.
    Ready,
    /// Being written down; it runs on unless the capture of this generation counts.
    Pausing,
    /// Nothing runs; the capture of this generation is the sandbox.
    Paused,
    /// Starting from the capture of this generation, which stays until the guest has confirmed.
    Resuming,
    /// Its VM ended by itself; the disk is the sandbox.
    Crashed,
    /// Everything of it goes.
    Deleting,
}

impl Step {
    /// Every step, for tests that kill the agent at each.
    pub const ALL: [Self; 8] = [
        Self::Begun,
        Self::Machine,
        Self::Ready,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Crashed,
        Self::Deleting,
    ];

    fn is_promise(self) -> bool {
        matches!(self, Self::Ready | Self::Paused | Self::Crashed)
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
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

/// One sandbox's ledger.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub wish: Wish,
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
    /// What the guest was told, for a boot from its disk.
    #[serde(default)]
    pub workdir: String,
    /// Version of the image its disk descends from.
    #[serde(default)]
    pub image: String,
    /// Checksum of the memory file its VM is mapped over.
    #[serde(default)]
    pub memory_checksum: u64,
    /// A fork's child that has not run yet: it is to run, whoever finds it.
    #[serde(default)]
    pub unborn: bool,
    /// Why its VM ended, fit for the user.
    #[serde(default)]
    pub crash: String,
}

/// Place of a sandbox's capture of one generation.
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
    /// Of a wish just taken.
    pub fn begin(wish: Wish, token: String) -> Self {
        Self {
            wish,
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
            memory_checksum: 0,
            unborn: false,
            crash: String::new(),
        }
    }

    /// Writes it into the sandbox's directory; a promise so that it outlasts a power cut.
    pub fn write(&self, dir: &Path) -> Result<(), LedgerError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        let put = if self.step.is_promise() { files::replace } else { files::replace_unsynced };
        bytes.and_then(|bytes| put(&path, &bytes)).map_err(failed("write", &path))
    }

    /// Writes that the guest is ready, for whoever comes after this process; [`settle`] makes it outlast a power cut.
    pub fn hand_out(&self, dir: &Path) -> Result<(), LedgerError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        bytes.and_then(|bytes| files::exchange_unsynced(&path, &bytes, BEFORE)).map_err(failed("write", &path))
    }

    /// Place of the newest capture.
    pub fn capture_dir(&self, dir: &Path) -> PathBuf {
        capture_dir(dir, self.generation)
    }

    /// Reads one. It may be half-written or somebody else's: everything is checked.
    pub fn read(dir: &Path, id: SandboxId) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let failure = match Self::read_from(&path, id) {
            Ok(ledger) => return Ok(ledger),
            Err(failure) => failure,
        };
        // Its guest was handed out, and the power was cut before that was safe: its disk is what there is.
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

    fn read_from(path: &Path, id: SandboxId) -> Result<Self, LedgerError> {
        let read = (|| {
            if path.metadata()?.len() > BYTES_MAX {
                return Err(std::io::Error::other("too long for a ledger"));
            }
            let ledger: Self = serde_json::from_slice(&std::fs::read(&path)?).map_err(std::io::Error::other)?;
            if ledger.wish.id != id {
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
        let wish = Wish {
            id,
            template: "minimal".to_owned(),
            vcpus: 1,
            memory_mib: 512,
            disk_mib: 5120,
            timeout_sec: 0,
            default_user: String::new(),
            default_env: BTreeMap::new(),
            snapshot: None,
        };
        let mut ledger = Ledger::begin(wish, "token".to_owned());
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
    }
}
