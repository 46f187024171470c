//! Why the agent does not take a request.

use crate::failure::Failure;
use crate::storage::StorageError;

/// A request is not taken. It becomes an RPC error in `rpc/error.rs`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no such sandbox on this host")]
    NotFound,
    #[error("the sandbox is not running")]
    NotRunning,
    #[error("the sandbox was deleted before it was made")]
    Deleted,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NoCapacity(String),
    #[error("there is no template {0} on this host")]
    NoTemplate(String),
    #[error("the guest does not answer")]
    Unresponsive,
    #[error("the sandbox has too much to do already; try again")]
    Busy,
    /// A snapshot or fork did not come about.
    #[error("{0}")]
    Failed(Failure),
    #[error("the host failed")]
    Storage(#[source] StorageError),
}
