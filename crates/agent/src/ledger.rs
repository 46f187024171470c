//! What was begun for a sandbox, on disk before it is done. A successor reads it and knows what to take over, finish or
//! remove.
//!
//! ```text
//! begun -> machine -> ready            (each written before the step it names is taken)
//!    \________\_________\--> deleting  then the directory itself goes
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wrenn_domain::ids::SandboxId;
use wrenn_linux::files;
use wrenn_vmm::Record;

const FILE: &str = "ledger.json";
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
    /// Everything of it goes.
    Deleting,
}

impl Step {
    /// Every step, for tests that kill the agent at each.
    pub const ALL: [Self; 4] = [Self::Begun, Self::Machine, Self::Ready, Self::Deleting];
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
    /// Unix ms of readiness.
    pub started_at_ms: i64,
    /// Versions for the report.
    pub metadata: BTreeMap<String, String>,
}

/// A ledger could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} {}", path.display())]
pub struct LedgerError {
    act: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl Ledger {
    /// Writes it into the sandbox's directory so that it outlasts a power cut.
    pub fn write(&self, dir: &Path) -> Result<(), LedgerError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        bytes.and_then(|bytes| files::replace(&path, &bytes)).map_err(|source| LedgerError {
            act: "write",
            path,
            source,
        })
    }

    /// Reads one. It may be half-written or somebody else's: everything is checked.
    pub fn read(dir: &Path, id: SandboxId) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
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
        read.map_err(|source| LedgerError { act: "read", path, source })
    }
}
