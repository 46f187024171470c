//! Manifest of a capture: what it is, what it can be loaded on, and the digests of its files. It comes from our own disk, which may be
//! half-written, so [`Manifest::parse`] believes nothing.
//!
//! Format 1 had one file of device state and one disk. It is still read; what is written is format 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wrenn_vmm::Acceleration;

use crate::storage::disks::DiskRecord;

/// Format that is written, and the newest that is read.
pub const FORMAT: u32 = 2;
/// Format in which device state was one file beside the others.
pub const FORMAT_ONE_STATE_FILE: u32 = 1;
/// Name of the state in format 1.
const STATE_FORMAT_1: &str = "state";
/// Files of device state at most; a VMM writes one or two.
const STATE_FILES_MAX: usize = 16;
/// Characters of a state file's name at most.
const STATE_NAME_MAX: usize = 64;

/// Compatibility is what device state depends on: it can be loaded only where all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compatibility {
    /// Name of the driver.
    pub vmm: String,
    pub vmm_version: String,
    pub acceleration: Acceleration,
    /// Digest of the processor's model and features, hex.
    pub cpu: String,
}

impl Compatibility {
    /// First difference to `here`, as a clause for the user.
    pub(super) fn difference_to(&self, here: &Self) -> Option<String> {
        let pairs = [
            ("VMM", self.vmm.as_str(), here.vmm.as_str()),
            ("VMM version", &self.vmm_version, &here.vmm_version),
            ("acceleration", self.acceleration.as_str(), here.acceleration.as_str()),
            ("processor", &self.cpu, &here.cpu),
        ];
        let (what, then, now) = pairs.into_iter().find(|(_, then, now)| then != now)?;
        Some(format!("its {what} was {then} and is {now} here"))
    }
}

/// FileDigest is the size and checksum of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    pub bytes: u64,
    pub checksum: u64,
}

/// Manifest says what a capture is. It holds the guest's token, so this type has no Debug form.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    #[serde(rename = "maker")]
    pub compatibility: Compatibility,
    pub template: String,
    /// Version of the image the disk descends from.
    pub image: String,
    pub kernel: String,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disks: Vec<DiskRecord>,
    /// Digest of each file of the device state, by its name.
    pub state: BTreeMap<String, FileDigest>,
    pub memory: FileDigest,
    /// Run of the host in which it was written: under another one its pages have been through the disk.
    pub boot_id: String,
    pub default_user: String,
    pub default_workdir: String,
    pub default_env: BTreeMap<String, String>,
    /// Access token the guest inside expects.
    pub token: String,
    /// Position and length, in bytes, of the memory its guest had in use: who starts from it will need that first.
    #[serde(default)]
    pub used: Vec<(u64, u64)>,
    /// Versions reported with the sandbox.
    pub metadata: BTreeMap<String, String>,
    /// Unix time in ms.
    pub created_at_ms: i64,
}

/// ManifestError says why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("it cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it has format {0}, this agent reads up to {FORMAT}")]
    Format(u64),
    #[error("{0:?} is no name for a file of device state")]
    StateName(String),
    #[error("it names {0} files of device state; 1 to {STATE_FILES_MAX} are possible")]
    StateCount(usize),
    #[error("it names {0} disks; one is possible")]
    DiskCount(usize),
}

impl Manifest {
    /// Parses the bytes of a manifest file of any format.
    ///
    /// # Errors
    /// The bytes are torn, of a later format, or name files no driver writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(bytes)?;
        match fields.get("format").and_then(Value::as_u64) {
            Some(format) if format == u64::from(FORMAT_ONE_STATE_FILE) => convert_from_1(&mut fields),
            Some(format) if format == u64::from(FORMAT) => {}
            other => return Err(ManifestError::Format(other.unwrap_or(0))),
        }
        let manifest: Self = serde_json::from_value(Value::Object(fields))?;
        if !(1..=STATE_FILES_MAX).contains(&manifest.state.len()) {
            return Err(ManifestError::StateCount(manifest.state.len()));
        }
        if let Some(name) = manifest.state.keys().find(|name| !is_state_name(name)) {
            return Err(ManifestError::StateName(name.clone()));
        }
        if manifest.disks.len() != 1 {
            return Err(ManifestError::DiskCount(manifest.disks.len()));
        }
        Ok(manifest)
    }

    /// Bytes the guest sees of its disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.bytes).sum()
    }
}

/// Gives a manifest of format 1 the fields of format 2. It keeps its number, which says where its files lie.
fn convert_from_1(fields: &mut serde_json::Map<String, Value>) {
    if let Some(state) = fields.remove("state") {
        fields.insert("state".to_owned(), json!({ STATE_FORMAT_1: state }));
    }
    if let Some(bytes) = fields.remove("disk_bytes") {
        fields.insert("disks".to_owned(), json!([{"kind": "reflink", "bytes": bytes}]));
    }
}

/// Whether a driver may give a file of its state this name: it is joined to a path.
pub fn is_state_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=STATE_NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Manifest as version 0.1.0 wrote it.
    const FORMAT_1: &str = r#"{"format":1,"maker":{"vmm":"qemu","vmm_version":"7.2.9","acceleration":"tcg","cpu":"c"},
        "template":"minimal","image":"v","kernel":"k","vcpus":1,"memory_mib":512,"disk_bytes":8192,
        "state":{"bytes":5000,"checksum":18446744073709551615},"memory":{"bytes":536870912,"checksum":7},"boot_id":"b",
        "default_user":"","default_workdir":"","default_env":{},"token":"t","metadata":{},"created_at_ms":1}"#;

    #[test]
    fn a_manifest_of_format_1_is_read_with_its_one_state_file_and_its_one_disk() {
        let manifest = Manifest::parse(FORMAT_1.as_bytes()).unwrap();
        assert_eq!(manifest.format, 1);
        let state = FileDigest { bytes: 5000, checksum: u64::MAX };
        assert_eq!(manifest.state, BTreeMap::from([("state".to_owned(), state)]));
        assert_eq!(manifest.disks, [DiskRecord { kind: crate::disk_kind::DiskKind::Reflink, bytes: 8192 }]);
        assert_eq!(manifest.compatibility.acceleration, Acceleration::Software);
    }

    #[test]
    fn what_no_agent_writes_is_refused() {
        let mut manifest = Manifest::parse(FORMAT_1.as_bytes()).unwrap();
        manifest.format = FORMAT;
        let bytes = |manifest: &Manifest| serde_json::to_vec(manifest).unwrap();
        assert!(Manifest::parse(&bytes(&manifest)).unwrap() == manifest);
        for name in ["", ".", "..", "../disk", "a/b", "A", ".hidden", &"x".repeat(65)] {
            let mut odd = manifest.clone();
            odd.state.insert(name.to_owned(), FileDigest { bytes: 1, checksum: 1 });
            assert!(matches!(Manifest::parse(&bytes(&odd)), Err(ManifestError::StateName(_))), "{name}");
        }
        let mut odd = manifest.clone();
        odd.state.clear();
        assert!(matches!(Manifest::parse(&bytes(&odd)), Err(ManifestError::StateCount(0))));
        let mut odd = manifest.clone();
        odd.disks.clear();
        assert!(matches!(Manifest::parse(&bytes(&odd)), Err(ManifestError::DiskCount(0))));
        manifest.format = 3;
        assert!(matches!(Manifest::parse(&bytes(&manifest)), Err(ManifestError::Format(3))));
        for torn in ["", "{", "[]", "{\"format\":2}", "{\"format\":\"2\"}"] {
            assert!(Manifest::parse(torn.as_bytes()).is_err(), "{torn}");
        }
    }
}
