//! Errors of plain routes as JSON `{"code": 404, "message": "..."}`.

use axum::Json;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use wrenn_contract::guest::Error;
use wrenn_domain::failure::FailureKind;

use crate::disk::DiskError;

/// A refusal or failure on its way out.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    message: String,
}

impl Reply {
    /// `message` is shown to the user.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl From<DiskError> for Reply {
    fn from(error: DiskError) -> Self {
        let status = match error.kind() {
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Invalid => StatusCode::BAD_REQUEST,
            FailureKind::Forbidden => StatusCode::FORBIDDEN,
            FailureKind::AlreadyExists | FailureKind::Conflict => StatusCode::CONFLICT,
            FailureKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            FailureKind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            // None of the others is a file's.
            _ => {
                tracing::error!(error = error.message(), "a file call failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.message())
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let body = Error { code: self.status.as_u16(), message: self.message };
        (self.status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
    }
}

/// 404 for paths nobody serves.
pub async fn no_such_route(uri: Uri) -> Reply {
    Reply::new(StatusCode::NOT_FOUND, format!("no route {}", uri.path()))
}
