//! The only crate that speaks SQL or Redis.
//!
//! Owns: the schema, every query (one function each), the rule what is tried again when the database goes away.
//! Must never: decide what a user may do, or hand a row out that is not a domain value.
//!
//! PostgreSQL is truth: [`Store`]. [`redis::Redis`] only makes things quicker; everything works without it.

pub mod error;
pub mod pg;
pub mod redis;

pub use error::StoreError;
pub use pg::{Store, StoreOptions};
pub use sqlx::{PgConnection, PgPool};
