//! The QEMU driver on real guests: what a machine does, seen on its console and in its files.
#![allow(clippy::unwrap_used, reason = "a harness that cannot go on ends its test")]

mod confined;
mod harness;
mod life;
mod memory;
