//! The store against a real PostgreSQL and a real Redis.

mod accounts;
mod channels;
mod events;
mod hosts;
mod leases;
mod lifecycle;
mod live;
mod migrations;
mod outbound_jobs;
mod people;
mod quota;
mod races;
mod redis;
mod rows;
mod sandboxes;
mod schema;
mod spans;
mod teams;
