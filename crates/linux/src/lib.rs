//! The kernel we touch: system calls, ioctls and child processes behind safe functions.
//!
//! The only crate that may hold unsafe code or start processes. Knows no sandbox, no RPC and no configuration.
//! Guest side (envd and wrenn-init): [`boot`], [`kmod`], [`link`], [`entropy`], [`clock`], [`ext4`], [`hostname`], [`users`],
//! [`acting`], [`inotify`];
//! for processes: [`spawn`], [`child`], [`stream`], [`pty`], [`cgroup`], [`descriptors`], [`subtree`].
//! Host side (agent and vmm, feature `host`): [`netns`], [`links`], [`nft`], [`conntrack`], [`tap`], [`process`], [`tool`], [`files`],
//! [`loopdev`], [`mounts`], [`own_process`], [`tsc`], [`private_pages`].

pub mod as_user;
pub mod boot;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod descriptors;
pub mod entropy;
pub mod ext4;
pub mod hostname;
pub mod inotify;
pub mod kmod;
pub mod link;
pub mod memory;
pub mod pty;
pub mod spawn;
pub mod stream;
pub mod subtree;
mod syscall;
pub mod users;

#[cfg(feature = "host")]
pub mod conntrack;
#[cfg(feature = "host")]
pub mod files;
#[cfg(feature = "host")]
pub mod links;
#[cfg(feature = "host")]
pub mod loopdev;
#[cfg(feature = "host")]
pub mod mounts;
#[cfg(feature = "host")]
mod netfilter;
#[cfg(feature = "host")]
pub mod netns;
#[cfg(feature = "host")]
pub mod nft;
#[cfg(feature = "host")]
pub mod own_process;
#[cfg(feature = "host")]
pub mod private_pages;
#[cfg(feature = "host")]
pub mod process;
#[cfg(feature = "host")]
pub mod tap;
#[cfg(feature = "host")]
pub mod tool;
#[cfg(feature = "host")]
pub mod tsc;

pub use syscall::SyscallError;
