//! Disks of sandboxes: an interface that knows no file layout, and its implementations.
//!
//! A disk belongs to one directory: a sandbox's, a capture's, or one in `making/`. Nobody outside asks how it lies there; the handle
//! [`Disk`] yields the path for the VMM. Directories hold one disk today. docs/decisions/0013 argues the cut.

#[cfg(test)]
mod contract;
#[cfg(test)]
pub mod copies;
mod interface;
mod reflink;

pub use interface::{Disk, DiskKind, DiskRecord, Disks};
pub use reflink::ReflinkDisks;
