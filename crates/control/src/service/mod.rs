//! What a caller may do, one file per resource. Each function reads as its recipe; it takes the context, the actor
//! and a parsed request, and returns domain values.
//!
//! Must never: know HTTP, or call rest or tasks.

pub mod accounts;
mod actor;
pub mod admin;
pub mod audit;
pub mod chance;
pub mod channels;
pub mod credentials;
pub mod departures;
pub mod devices;
mod error;
pub mod events;
pub mod exec;
pub mod files;
pub mod forks;
pub mod health;
pub mod keys;
pub mod mails;
pub mod metrics;
mod news;
pub mod oauth;
pub mod passwords;
pub mod pauses;
pub mod ports;
pub mod processes;
pub mod rates;
pub mod reports;
pub mod sandboxes;
pub mod sessions;
pub mod snapshots;
pub mod standing;
pub mod stats;
pub mod streams;
pub mod teams;
pub mod templates;
pub mod touches;
pub mod usage;

pub use actor::{Actor, Credential, Person, UsedKey, Who};
pub use error::{ServiceError, guest_error};
