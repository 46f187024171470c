//! Sandboxes: one task each, behind a registry.
//!
//! ```text
//! registry -> task -> lifecycle: starting -> running <-> paused, crashed, failed, gone
//!                                   |           |  \---- pausing, snapshot, fork -> capture
//!                                   create -> start -> pools, machine, guest_init
//! recovery -> registry     below all of them: board (reports), teardown, live (types), error
//! ```

mod adopted;
mod board;
mod capture;
mod command;
mod crashed;
mod create;
mod error;
mod fork;
mod guest_init;
mod idle;
mod lifecycle;
mod live;
mod machine;
mod metrics;
mod paused;
mod pausing;
mod pool;
mod pools;
mod prepared_copy;
mod prestarted_vmms;
mod recovery;
mod refusal;
mod registry;
mod report;
mod rings;
mod running;
mod snapshot;
mod start;
mod start_plan;
mod starting;
mod task;
mod teardown;
mod template_maker;
mod template_memory;
#[cfg(test)]
mod tests;
mod warm_vms;

pub use board::{Running, Touch};
pub use metrics::measure;
pub use pool::maintain;
pub use recovery::{PurgeError, purge, recover};
pub use refusal::Refusal;
pub use registry::{Registry, Used};
pub use report::{Phase, Report, Revision};
pub use rings::Point;
pub use template_maker::make_template_memories;
