//! A fake host for tests of the agent's own logic: VMMs, networks and guests that take no time, disks that are copied. The agent on
//! it is the real one, on a thread of its own that can be stopped at any step as a kill stops a process; the fake host lives on.

mod agent;
mod guest;
mod machine;
mod network;
mod vmm;
mod world;

pub use agent::{FakeAgent, Victim};
pub use machine::FakeVm;
pub use world::World;
