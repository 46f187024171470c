//! Disks: images imported once, a reflink of one for every sandbox.
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
mod images;
mod store;

pub use captures::{BaseCopy, Capture, Draft, Maker, Manifest};
pub use images::{Image, Images};
pub use store::{StorageError, Store};
