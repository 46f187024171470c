//! What one process remembers between requests: caches, marks of use, permits, the feed of events. A restart may lose all of it.
//!
//! Owns: memory only. Must never: ask the database, Redis or a host (the services do and put here what they learn), or know the context.

mod cache;
pub mod disk_usage;
pub mod event_feed;
pub mod key_cache;
pub mod permits;
pub mod pool;
pub mod port_routes;
pub mod session_cache;
pub mod touches;
