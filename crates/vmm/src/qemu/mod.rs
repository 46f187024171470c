//! Driver for QEMU's `microvm` machine, over QMP.
//!
//! The control socket is made by us and inherited, so that it is there before QEMU is. The console is a ring in QEMU's own
//! memory: it needs nobody to read it and survives us. A guest that goes down leaves QEMU waiting, so that the ring can
//! still be read. Memory is always mapped privately over a file.

mod args;
mod capture;
mod driver;
mod machine;
mod prestart;
mod probe;
mod qmp;
mod status;

pub use driver::{find, inspect};
pub(crate) use qmp::Message;

/// Name of this driver, which records that name none mean.
pub(crate) fn driver_name() -> String {
    machine::NAME.to_owned()
}
