//! The store against a real PostgreSQL and a real Redis.

mod accounts;
mod channels;
mod errands;
mod events;
mod haste;
mod hosts;
mod leases;
mod lifecycle;
mod live;
mod people;
mod quota;
mod races;
mod rows;
mod sandboxes;
mod schema;
mod spans;
mod teams;
