//! Refusals as RPC errors: the only place where they become such.

use connectrpc::{ConnectError, ErrorCode as RpcCode};

use crate::failure::{ErrorCode, cause};
use crate::sandbox::Refusal;

/// Turns a refusal into what travels.
pub fn connect_error(refusal: &Refusal) -> ConnectError {
    let code = match refusal {
        Refusal::NotFound | Refusal::NoTemplate(_) => RpcCode::NotFound,
        Refusal::NotRunning | Refusal::Deleted => RpcCode::FailedPrecondition,
        Refusal::Invalid(_) => RpcCode::InvalidArgument,
        Refusal::NoCapacity(_) => RpcCode::ResourceExhausted,
        Refusal::Unresponsive | Refusal::Busy => RpcCode::Unavailable,
        Refusal::Failed(failure) => rpc_code(failure.code),
        Refusal::Storage(error) => {
            tracing::error!(error = cause(error), "a request could not be taken");
            RpcCode::Internal
        }
    };
    ConnectError::new(code, refusal.to_string())
}

/// Returns the RPC code nearest to one of the product's. Codes that the agent does not give are listed too, so that a new one must be
/// put in its place here.
fn rpc_code(code: ErrorCode) -> RpcCode {
    use ErrorCode as E;
    match code {
        E::InvalidState | E::Conflict => RpcCode::FailedPrecondition,
        E::DiskFull | E::NoHostsAvailable => RpcCode::ResourceExhausted,
        E::InvalidRequest => RpcCode::InvalidArgument,
        E::AgentError
        | E::InternalError
        | E::Unauthorized
        | E::ConcurrentSandboxLimit
        | E::VcpuLimit
        | E::MemoryLimit
        | E::LimitsUnavailable
        | E::UsageUnavailable
        | E::Forbidden
        | E::NotFound
        | E::MethodNotAllowed
        | E::AlreadyExists
        | E::PayloadTooLarge
        | E::RequestTimeout
        | E::UnsupportedMediaType
        | E::RangeNotSatisfiable
        | E::Unprocessable
        | E::RateLimited
        | E::SignupHookFailed
        | E::NotConfigured
        | E::HostUnavailable
        | E::ServiceUnavailable
        | E::Timeout => RpcCode::Internal,
    }
}
