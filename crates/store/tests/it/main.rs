//! The store against a real PostgreSQL and a real Redis.

mod haste;
mod hosts;
mod leases;
mod lifecycle;
mod rows;
mod sandboxes;
mod schema;
