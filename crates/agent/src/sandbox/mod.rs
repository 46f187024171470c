//! Sandboxes: one task each, behind a registry.
//!
//! ```text
//! wish -> [birth] -> running -> (guest dies) crashed
//!            |  \        \          \
//!            |   failed   \----------\--- delete ---> gone (remembered a while)
//!            delete during birth wins
//! ```

mod birth;
mod recovery;
mod registry;
mod report;
mod runner;

pub use recovery::{purge, recover};
pub use registry::{Refusal, Registry, memory_total_mib};
pub use report::{Phase, Report, Revision};
