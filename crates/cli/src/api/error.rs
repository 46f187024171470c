//! Why a call to the control plane did not succeed, each with what to do.

use wrenn_contract::rest::error::ErrorBody;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{base_url} is not a URL of the form http://host:port or https://host: {reason}")]
    BadBaseUrl { base_url: String, reason: String },

    #[error(
        "no API key: run `wrenn login`, set WRENN_API_KEY or pass --api-key (after `make dev-up`: source .dev/env)"
    )]
    NoKey,

    #[error("WRENN_API_KEY is malformed: a key is wrn_ and 32 characters 0-9 a-f")]
    MalformedKey,

    #[error("cannot reach {base_url}: {reason}. Is the control plane running? Set WRENN_BASE_URL to where it listens")]
    Unreachable { base_url: String, reason: String },

    #[error("{}", refusal(*status, &body.error.message))]
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

/// Remedy for a key that does not hold, or holds no more.
pub const KEY_REMEDY: &str = "run `wrenn login`, or set WRENN_API_KEY to a key that holds";

fn refusal(status: u16, message: &str) -> String {
    let message = crate::text::plain(message);
    match status {
        401 => format!("{message}; {KEY_REMEDY}"),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_does_not_hold_is_refused_with_the_remedy_and_nothing_else_is() {
        let refused = |status: u16, code: &str| {
            let body = serde_json::json!({"error": {"code": code, "message": "no\u{1b}", "request_id": "r"}});
            let body = Box::new(serde_json::from_value(body).expect("an error body"));
            ApiError::Refused { status, body }.to_string()
        };
        assert_eq!(refused(401, "unauthorized"), format!("no?; {KEY_REMEDY}"));
        assert_eq!(refused(403, "forbidden"), "no?");
    }
}
