//! Whole-stack tests on real VMs, through what a user has: the programs in `builds/`. Owns the harness; the tests are
//! in `tests/it`. Never linked into anything that ships.

mod leaks;
mod stack;

pub use leaks::HostState;
pub use stack::{Answer, Stack, wait_until};
