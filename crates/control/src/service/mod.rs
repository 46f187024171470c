//! What a caller may do, one file per resource. Each function reads as its recipe; it takes the context, the actor
//! and a parsed request, and returns domain values.
//!
//! Must never: know HTTP, or call rest or tasks.

mod error;
pub mod exec;
pub mod files;
pub mod forks;
pub mod health;
pub mod keys;
pub mod pauses;
pub mod processes;
pub mod reports;
pub mod sandboxes;
pub mod snapshots;
pub mod templates;
pub mod touches;

pub use error::{ServiceError, guest_error};

/// Who asks.
pub use wrenn_store::pg::KeyActor as Actor;
