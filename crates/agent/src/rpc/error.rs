//! Refusals as RPC errors: the only place where they become such.

use connectrpc::{ConnectError, ErrorCode};

use crate::sandbox::Refusal;

/// Turns a refusal into what travels.
pub fn connect_error(refusal: &Refusal) -> ConnectError {
    let code = match refusal {
        Refusal::NotFound | Refusal::NoTemplate(_) => ErrorCode::NotFound,
        Refusal::NotRunning | Refusal::Deleted => ErrorCode::FailedPrecondition,
        Refusal::Invalid(_) => ErrorCode::InvalidArgument,
        Refusal::NoRoom(_) => ErrorCode::ResourceExhausted,
        Refusal::Unresponsive => ErrorCode::Unavailable,
        Refusal::Storage(error) => {
            tracing::error!(error = error as &dyn std::error::Error, "a wish could not be taken");
            ErrorCode::Internal
        }
    };
    ConnectError::new(code, refusal.to_string())
}
