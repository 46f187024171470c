//! The public API's JSON shapes. What the inside calls a sandbox is a capsule here.
//!
//! Rules: fields are only added; timestamps are RFC 3339 UTC; lists are never null.

pub mod admin;
pub mod audit;
pub mod auth;
pub mod capsules;
pub mod description;
pub mod error;
pub mod events;
pub mod files;
pub mod keys;
pub mod me;
pub mod notification_channels;
pub mod ports;
pub mod processes;
pub mod snapshots;
pub mod teams;
pub mod usage;
