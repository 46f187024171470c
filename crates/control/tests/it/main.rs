//! The control plane over HTTP: real PostgreSQL, real Redis, a simulated host with a real envd.

mod admin;
mod attacks;
mod auth;
mod bad_days;
mod capsules;
mod captures;
mod devices;
mod docs;
mod envelope;
mod exec;
mod extensions;
mod faults;
mod files;
mod forks;
mod harness;
mod keys;
mod live;
mod oauth;
mod pauses;
mod people;
mod ports;
mod program;
mod streams;
mod teams;
mod usage;
mod watch;
