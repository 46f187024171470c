//! The public REST API as the command line uses it. Owns connections and error shapes; knows no command.

mod error;
mod events;
mod http;
mod stream;
mod tunnel;

pub use error::{ApiError, KEY_REMEDY};
pub use events::{EventStream, Message};
pub use http::{Client, Connection};
pub use stream::{ExecEvent, ExecInput, ExecStart, ExecStream, PtyEvent, PtyEvents, PtyInput, open_pty};
pub use tunnel::Tunnel;
