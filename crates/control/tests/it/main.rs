//! The control plane over HTTP: real PostgreSQL, real Redis, a simulated host with a real envd.

mod bad_days;
mod capsules;
mod captures;
mod docs;
mod envelope;
mod exec;
mod exec_stream;
mod faults;
mod files;
mod forks;
mod harness;
mod keys;
mod pauses;
mod program;
