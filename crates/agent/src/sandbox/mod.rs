//! Sandboxes: one task each, behind a registry.
//!
//! ```text
//! wish -> [birth] -> running <-> paused (a capture)
//!            |  \        \  \
//!            |   failed   \  crashed -> running (from its disk)
//!            |             any --- delete ---> gone (remembered a while)
//!            delete during birth wins
//! ```

mod ahead;
mod birth;
mod blanks;
mod capture;
mod command;
mod idle;
mod metrics;
mod recovery;
mod registry;
mod report;
mod rings;
mod runner;
mod spares;
mod stock;
mod templates;

pub use blanks::Blank;
pub use metrics::measure;
pub use recovery::{purge, recover};
pub use registry::{Refusal, Registry, Running, Touch, Used};
pub use report::{Phase, Report, Revision};
pub use rings::Point;
pub use spares::Spare;
pub use stock::{Stock, keep};
pub use templates::{Templates, make_templates};
