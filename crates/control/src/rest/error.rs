//! The one place where failures become HTTP.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use wrenn_contract::rest::error::{ErrorBody, ErrorCode, ErrorDetail};
use wrenn_domain::failure::{Failure, FailureKind};

use super::request;
use crate::causes::chain;
use crate::service::ServiceError;
use crate::service::rates::secs_up;

/// Seconds after which trying again is worth it when nothing says when.
const RETRY_SECS: u64 = 2;

/// An error answer.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    /// Seconds to wait, where trying again helps.
    retry_after_secs: Option<u64>,
}

impl ApiError {
    /// An answer of this code with this text for the user.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry = matches!(
            code,
            ErrorCode::ServiceUnavailable
                | ErrorCode::HostUnavailable
                | ErrorCode::NoHostsAvailable
                | ErrorCode::RateLimited
        );
        Self { code, message: message.into(), retry_after_secs: retry.then_some(RETRY_SECS) }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// The text, for answers inside a WebSocket.
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry = self.retry_after_secs;
        let detail = ErrorDetail { code: self.code, message: self.message, request_id: request::id() };
        let mut response = (status, Json(ErrorBody { error: detail })).into_response();
        if let Some(secs) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::new(code_of(failure.kind), failure.message)
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let api = match &error {
            ServiceError::Failure(failure) | ServiceError::Host { failure, .. } => Self::from(failure.clone()),
            ServiceError::TooMany { failure, wait } => Self {
                retry_after_secs: Some(secs_up(*wait)),
                ..Self::new(ErrorCode::RateLimited, failure.message.clone())
            },
            ServiceError::Busy(message) => Self::new(ErrorCode::RateLimited, message.clone()),
            ServiceError::Store(store) if store.is_away() => Self::new(
                ErrorCode::ServiceUnavailable,
                "the control plane's database cannot be reached now; try again",
            ),
            ServiceError::Store(_) => {
                Self::new(ErrorCode::InternalError, "something went wrong here; the request id finds it in the log")
            }
        };
        log(&api, &error);
        api
    }
}

fn code_of(kind: FailureKind) -> ErrorCode {
    match kind {
        FailureKind::NotFound => ErrorCode::NotFound,
        FailureKind::Conflict => ErrorCode::Conflict,
        FailureKind::NotRunning => ErrorCode::InvalidState,
        FailureKind::AlreadyExists => ErrorCode::AlreadyExists,
        FailureKind::Invalid => ErrorCode::InvalidRequest,
        FailureKind::TooLarge => ErrorCode::PayloadTooLarge,
        FailureKind::Unauthorized => ErrorCode::Unauthorized,
        FailureKind::Forbidden => ErrorCode::Forbidden,
        FailureKind::OverQuota => ErrorCode::ConcurrentSandboxLimit,
        FailureKind::OverVcpuQuota => ErrorCode::VcpuLimit,
        FailureKind::OverMemoryQuota => ErrorCode::MemoryLimit,
        FailureKind::LimitsUnknown => ErrorCode::LimitsUnavailable,
        FailureKind::UsageUnknown => ErrorCode::UsageUnavailable,
        FailureKind::SignupRefused => ErrorCode::SignupHookFailed,
        FailureKind::NoCapacity => ErrorCode::NoHostsAvailable,
        FailureKind::Unavailable => ErrorCode::HostUnavailable,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::DiskFull => ErrorCode::DiskFull,
        FailureKind::NotConfigured => ErrorCode::NotConfigured,
        FailureKind::Upstream => ErrorCode::AgentError,
        FailureKind::Internal => ErrorCode::InternalError,
    }
}

fn log(api: &ApiError, error: &ServiceError) {
    let id = request::id();
    let chain = chain(error);
    match api.code.status() {
        500 => tracing::error!(request_id = id, error = chain, "request failed"),
        502..=504 => tracing::warn!(request_id = id, error = chain, "request failed"),
        _ => tracing::debug!(request_id = id, error = chain, "request refused"),
    }
}

pub(super) async fn no_such_route() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such route; /docs lists them all")
}

pub(super) async fn no_such_method() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "this path does not take that method; /docs lists what there is")
}
