//! Kind of a disk, as ledgers and manifests name it. Below both of them.

use serde::{Deserialize, Serialize};

/// DiskKind names the implementation a disk belongs to. Ledgers and manifests from before there was a choice name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// Raw file that shares blocks with the one it was made from.
    #[default]
    Reflink,
}
