//! Files of sandboxes: images imported once, disks and captures made from them.
//!
//! ```text
//! {dir}/images/<name>/{rootfs.ext4,image.json}      published by the operator
//! {store}/images/<name>/<version>/{rootfs.ext4,image.json}   immutable, named by content
//! {store}/sandboxes/<id>/{ledger.json,disk,memory,capture-<n>/}     running on disk and memory, or paused in a capture
//! {store}/templates/<image>-<size>/  {store}/snapshots/<id>/        captures to start from
//! {store}/making/  {store}/quarantine/
//! ```
//! {store} is {dir} itself where its file system shares blocks, else {dir}/store: an XFS of our own in {dir}/store.xfs.

pub mod captures;
mod disks;
mod error;
mod images;
mod own_xfs;
mod store;

pub use captures::{Capture, Compatibility, Draft, FileDigest, Manifest, PreparedCopy};
pub use disks::Disk;
#[cfg(test)]
pub use disks::copies::CopiedDisks;
pub use error::StorageError;
pub use images::{Description, Image, Images};
pub use own_xfs::OWN_XFS;
pub use store::{Store, memory_path};
