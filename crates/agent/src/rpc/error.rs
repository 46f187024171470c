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
        Refusal::Unresponsive | Refusal::Busy => ErrorCode::Unavailable,
        Refusal::Refused(_, code) => refused_code(code),
        Refusal::Storage(error) => {
            tracing::error!(error = error as &dyn std::error::Error, "a wish could not be taken");
            ErrorCode::Internal
        }
    };
    ConnectError::new(code, refusal.to_string())
}

/// The nearest RPC code to one of the REST codes.
fn refused_code(code: &str) -> ErrorCode {
    match code {
        "invalid_state" | "conflict" => ErrorCode::FailedPrecondition,
        "disk_full" | "no_hosts_available" => ErrorCode::ResourceExhausted,
        "invalid_request" => ErrorCode::InvalidArgument,
        _ => ErrorCode::Internal,
    }
}
