//! Entry points of the fuzz targets of this crate. Not part of its interface.

use std::path::{Component, Path};

use crate::ledger::Ledger;
use crate::storage::{Description, Manifest};

/// Fuzz target of a capture's manifest: what is parsed names files that stay in its directory, and survives being written again.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert!(manifest.state.keys().all(|name| is_plain(Path::new(name))), "a name leads out of its directory");
    assert_eq!(manifest.disks.len(), 1, "a machine has one disk");
    let mut again = manifest.clone();
    again.format = crate::storage::captures::FORMAT;
    let written = serde_json::to_vec(&again).expect("a manifest can be written");
    assert!(Manifest::parse(&written).is_ok_and(|read| read == again), "it is read as it was written");
}

/// Fuzz target of a sandbox's ledger: what is parsed survives being written again.
pub fn ledger(bytes: &[u8]) {
    let Ok(ledger) = Ledger::parse(bytes) else { return };
    let written = serde_json::to_vec(&ledger).expect("a ledger can be written");
    assert!(Ledger::parse(&written).is_ok_and(|read| read == ledger), "it is read as it was written");
}

/// Fuzz target of an image's description: the directory of what is parsed stays below that of all images.
pub fn image(bytes: &[u8]) {
    let Ok(description) = Description::parse(bytes) else { return };
    let dir = description.relative_dir();
    assert!(dir.components().count() == 2 && dir.iter().all(|part| is_plain(Path::new(part))), "it leads out: {dir:?}");
}

fn is_plain(path: &Path) -> bool {
    let mut components = path.components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}
