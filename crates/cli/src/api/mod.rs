//! The public REST API as the command line uses it. Owns connections and error shapes; knows no command.

mod error;
mod events;
mod http;
mod stream;
mod tunnel;

pub use error::ApiError;
pub use events::{EventStream, Told};
pub use http::{Client, Connection};
pub use stream::{ExecEvent, ExecInput, ExecStart, ExecStream, PtyEvent, PtyEvents, PtyInput, open_pty};
pub use tunnel::Tunnel;
