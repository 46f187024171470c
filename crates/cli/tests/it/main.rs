//! The program `wrenn` against a real control plane with a simulated host.

mod copying;
mod lifecycle;
mod live;
mod ports;
mod shell;
mod world;
