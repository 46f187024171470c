//! The program `wrenn` against a real control plane with a simulated host.

mod lifecycle;
mod shell;
mod live;
mod world;
