//! `filesystem.Filesystem`: looking at files, making and moving directories, removing, watching. Bulk data goes over
//! `/files`.
//!
//! Each call names a user or means the default one, and has his rights and no others.
//!
//! Must never: follow a link when it removes, or let a listing, a tree or a watcher grow without bound.

mod asking;
mod entry;
mod list;
mod movement;
mod remove;
mod service;
pub mod watch;

pub use service::router;
