//! The API's WebSockets: a command ([`exec`]), a process ([`attach`]), a terminal ([`terminal`]).
//!
//! - [`socket`]: what they have in common: the upgrade, pings, bounds, the end.
//! - [`input`]: bytes on their way to a process; [`text`] and [`print`]: bytes on their way back.
//!
//! Only a missing or foreign credential is refused before the upgrade: published clients cannot read such an answer. From
//! there on every failure is a frame, and then the socket closes. A client that reads slowly slows the process, a process
//! that reads slowly slows the client, and neither loses a byte.

pub(super) mod attach;
pub(super) mod exec;
mod input;
mod print;
mod socket;
pub(super) mod terminal;
mod text;
