//! What a caller may do, one file per resource. Each function reads as its recipe; it takes the context, the actor
//! and a parsed request, and returns domain values.
//!
//! Must never: know HTTP, or call rest or tasks.

pub mod account_deletion;
pub mod accounts;
pub mod admin;
pub mod audit;
pub mod credential_watch;
pub mod credentials;
pub mod devices;
pub mod events;
pub mod exec;
pub mod files;
pub mod forks;
pub mod health;
pub mod keys;
pub mod lookup;
pub mod mails;
pub mod metrics;
pub mod notification_channels;
pub mod oauth;
pub mod pauses;
pub mod ports;
pub mod processes;
pub mod rates;
pub(crate) mod redis_entries;
pub mod reports;
pub mod revocation;
mod sandbox_events;
pub mod sandboxes;
pub mod sessions;
pub mod snapshots;
pub mod stats;
pub mod streams;
pub mod teams;
pub mod templates;
pub mod usage;
