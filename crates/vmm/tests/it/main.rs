//! The QEMU driver on real guests: what a machine does, seen on its console and in its files.

mod harness;
mod life;
mod memory;
