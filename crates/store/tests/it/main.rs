//! The store against a real PostgreSQL and a real Redis.

mod haste;
mod hosts;
mod leases;
mod rows;
mod sandboxes;
mod schema;
