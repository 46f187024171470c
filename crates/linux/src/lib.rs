//! The kernel we touch: system calls, ioctls and child processes behind safe functions.
//!
//! The only crate that may hold unsafe code or start processes. Knows no sandbox, no RPC and no configuration.
//! Guest side (envd and wrenn-init): [`boot`], [`kmod`], [`link`], [`credentials`], [`spawn`], [`pty`], [`cgroup`], [`watch`],
//! [`entropy`], [`clock`], [`ext4`], [`procfs`].

pub mod boot;
pub mod clock;
pub mod entropy;
pub mod ext4;
pub mod hostname;
pub mod kmod;
pub mod link;
pub mod memory;
mod syscall;

pub use syscall::SyscallError;
