//! For tests only: a private PostgreSQL and Redis, a database per test, a simulated host, conditions to wait for.
//!
//! - [`services`]: one cluster for all test processes of a run, started by the first, stopped after the last.
//! - [`browser`]: a real browser.
//! - [`database`]: a fresh database and Redis prefix per test.
//! - [`disk`]: one that is soon full.
//! - [`host`]: speaks the real host contract over real sockets and runs the real envd; only the VM is missing.
//! - [`proxy`]: a TCP proxy that can be cut.
//! - [`skip`]: what happens to a test that cannot run here.
//! - [`smtp`]: a real mail server.
//! - [`wait`]: waiting for a condition, with a bound.
//! - [`leaks`]: what a test left behind.

pub mod browser;
pub mod database;
pub mod disk;
pub mod host;
pub mod leaks;
pub mod proxy;
pub mod services;
pub mod skip;
pub mod smtp;
pub mod wait;

pub use database::Database;
pub use disk::SmallDisk;
pub use host::SimHost;
pub use proxy::CutProxy;
pub use skip::require;
pub use smtp::MailServer;
pub use wait::wait_until;
