//! The one place where failures become HTTP, and the id of the request they are answers to.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use wrenn_contract::rest::error::{ErrorBody, ErrorCode, ErrorDetail};
use wrenn_domain::failure::{Failure, FailureKind};

use crate::error::ServiceError;
use crate::error_chain::chain;

/// Seconds after which trying again is worth it when nothing says when.
const RETRY_SECS: u64 = 2;

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request under way; outside of one (never in a handler) a blank one.
pub(crate) fn request_id() -> String {
    REQUEST_ID.try_with(Clone::clone).unwrap_or_else(|_| "req_0000000000000000".to_owned())
}

/// Runs `work` as a part of the request with this id.
pub(crate) async fn within_request<F: Future>(id: String, work: F) -> F::Output {
    REQUEST_ID.scope(id, work).await
}

/// Challenge of every 401. It is no scheme of a browser's own: those would open its login window.
pub(crate) const CHALLENGE: &str = "ApiKey realm=\"wrenn\", header=\"X-API-Key\"";

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

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// Whether it tells of a host or guest that did not answer as it should.
    pub(crate) fn is_about_the_host(&self) -> bool {
        matches!(self.code, ErrorCode::AgentError | ErrorCode::HostUnavailable | ErrorCode::InvalidState)
    }

    /// The text, for answers inside a WebSocket.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.into_response_as(|error| ErrorBody { error })
    }
}

impl ApiError {
    /// Makes the answer with a body that holds more than the error.
    pub(crate) fn into_response_as<B: serde::Serialize>(self, body: impl FnOnce(ErrorDetail) -> B) -> Response {
        self.into_response_of(|detail| Json(body(detail)).into_response())
    }

    /// Makes the answer with a body that is made of the error.
    pub(crate) fn into_response_of(self, body: impl FnOnce(ErrorDetail) -> Response) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry = self.retry_after_secs;
        let detail = ErrorDetail { code: self.code, message: self.message, request_id: request_id() };
        let mut response = body(detail);
        *response.status_mut() = status;
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
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
                retry_after_secs: Some(whole_seconds(*wait)),
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
        FailureKind::Unsatisfiable => ErrorCode::Unprocessable,
        FailureKind::OutOfRange => ErrorCode::RangeNotSatisfiable,
        FailureKind::Unavailable => ErrorCode::HostUnavailable,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::DiskFull => ErrorCode::DiskFull,
        FailureKind::NotConfigured => ErrorCode::NotConfigured,
        FailureKind::Upstream => ErrorCode::AgentError,
        FailureKind::Internal => ErrorCode::InternalError,
    }
}

fn log(api: &ApiError, error: &ServiceError) {
    let id = request_id();
    let chain = chain(error);
    match api.code.status() {
        500 => tracing::error!(request_id = id, error = chain, "request failed"),
        502..=504 => tracing::warn!(request_id = id, error = chain, "request failed"),
        _ => tracing::debug!(request_id = id, error = chain, "request refused"),
    }
}

/// Whole seconds, never too few.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
