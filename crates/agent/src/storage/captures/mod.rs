//! Captures: a sandbox at one instant. Made under another name, counted from the moment it has its own, never changed after.
//!
//! ```text
//! <path>.new/{state/...,memory,disk}  ->  manifest.json, everything synced  ->  rename to <path>
//! ```
//! Files are shared, not copied: a sandbox that starts from a capture gets a hard link to its memory (one page cache for all of
//! them) and a disk that shares blocks with the capture's. So a capture can be removed while sandboxes made from it live on.

mod capture;
mod draft;
mod layout;
mod manifest;
mod prepared_copy;
#[cfg(test)]
mod tests;

pub use capture::Capture;
pub use draft::Draft;
pub use layout::discard;
pub use manifest::{Compatibility, FORMAT, FileDigest, Manifest};
pub use prepared_copy::PreparedCopy;
