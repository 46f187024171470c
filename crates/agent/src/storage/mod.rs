//! Disks: images imported once, a reflink of one for every sandbox.
//!
//! ```text
//! {dir}/images/<name>/{rootfs.ext4,image.json}      published by the operator
//! {store}/images/<name>/<version>/{rootfs.ext4,image.json}   immutable, named by content
//! {store}/sandboxes/<id>/{ledger.json,disk,memory}  {store}/quarantine/
//! ```
//! {store} is {dir} itself where its file system shares blocks, else {dir}/store: an XFS of our own in {dir}/store.xfs.

mod images;
mod store;

pub use images::{Image, Images};
pub use store::{StorageError, Store};
