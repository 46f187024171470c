//! Nouns and laws of Wrenn: ids, names, sizes, states, limits, failures.
//!
//! Owns: what a valid value is. Must never: do I/O, be async, read a clock or draw random numbers.

pub mod account;
pub mod channel;
pub mod event;
pub mod failure;
pub mod ids;
pub mod key;
pub mod limits;
pub mod metadata;
pub mod names;
pub mod network;
pub mod quota;
pub mod role;
pub mod sandbox;
pub mod secret;
pub mod sizes;
pub mod words;
