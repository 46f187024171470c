//! Why a call to the control plane did not succeed, each with what to do.

use wrenn_contract::rest::error::ErrorBody;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{base_url} is not a URL of the form http://host:port or https://host")]
    BadBaseUrl { base_url: String },

    #[error(
        "no API key: run `wrenn login`, set WRENN_API_KEY or pass --api-key (after `make dev-up`: source .dev/env)"
    )]
    NoKey,

    #[error("WRENN_API_KEY is malformed: a key is wrn_ and 32 characters 0-9 a-f")]
    MalformedKey,

    #[error("cannot reach {base_url}: {reason}. Is the control plane running? Set WRENN_BASE_URL to where it listens")]
    Unreachable { base_url: String, reason: String },

    #[error("{}", crate::output::plain(&body.error.message))]
    Refused { status: u16, body: Box<ErrorBody> },

    #[error("{base_url} answered {status} with something that is no Wrenn answer; check WRENN_BASE_URL")]
    NotWrenn { base_url: String, status: u16 },

    #[error("the connection broke in the middle of the answer: {reason}")]
    Broken { reason: String },
}

impl ApiError {
    /// Code for `--json`: the server's, or one of the client's own.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { body, .. } => body.error.code.as_str(),
            Self::BadBaseUrl { .. } | Self::NoKey | Self::MalformedKey => "client_configuration",
            Self::Unreachable { .. } => "unreachable",
            Self::NotWrenn { .. } => "not_wrenn",
            Self::Broken { .. } => "connection_broken",
        }
    }

    /// HTTP status of the server's refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The request's id, to find it in the server's log.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Refused { body, .. } => Some(&body.error.request_id),
            _ => None,
        }
    }
}
