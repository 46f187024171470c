//! The part of the Linux kernel Wrenn touches. All unsafe code and all child processes of the product live here.
//!
//! Must never know what a sandbox, a team or a VMM is.

pub mod files;
pub mod links;
pub mod loopdev;
pub mod mounts;
pub mod netns;
pub mod nft;
pub mod process;
pub mod tap;
pub mod tool;
