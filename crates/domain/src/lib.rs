//! Nouns and laws of Wrenn: ids, names, sizes, states, limits, failures.
//!
//! Owns: what a valid value is. Must never: do I/O, be async, read a clock or draw random numbers.

pub mod account;
pub mod base_url;
pub mod command;
pub mod error_code;
pub mod event;
pub mod failure;
pub mod host_reserve;
pub mod ids;
pub mod key;
pub mod limits;
pub mod metadata;
pub mod names;
pub mod network;
pub mod notification_channel;
pub mod path_escape;
pub mod quota;
pub mod role;
pub mod sandbox;
pub mod secret;
pub mod settings;
pub mod sizes;
pub mod string_enum;
mod text_type;

pub use error_code::{ErrorCode, SandboxErrorCode};
