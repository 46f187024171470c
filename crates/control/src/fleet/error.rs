//! Why a call to a host or guest failed, as a kind.

use connectrpc::{ConnectError, ErrorCode};
use wrenn_contract::host::RelayError;

use super::relay::RelayFailure;

/// A call to a host or guest that did not work.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The agent could not be reached, or the connection broke.
    #[error("the host agent cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The agent did not answer in time.
    #[error("the host agent did not answer in time")]
    TimedOut,
    /// The agent did not let the call through to the guest.
    #[error("the guest relay answered {}", .0.code())]
    Relay(RelayError),
    /// The agent refuses our token.
    #[error("the host agent refuses our token: WRENN_HOST_TOKEN differs between control plane and agent")]
    TokenRefused,
    /// The agent or the guest answered with an error of its own.
    #[error("answered {code:?}: {message}")]
    Answered { code: ErrorCode, message: String },
    /// The answer makes no sense.
    #[error("the answer makes no sense: {0}")]
    Nonsense(String),
}

/// Characters of a guest's or agent's message that may travel on.
const MESSAGE_CHARS_MAX: usize = 512;

impl FleetError {
    /// The host itself is away, so the same call may work later.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut | Self::TokenRefused => true,
            Self::Answered { code, .. } => matches!(code, ErrorCode::Unavailable | ErrorCode::Aborted),
            Self::Relay(_) | Self::Nonsense(_) => false,
        }
    }

    /// An error answer with its message cut to a bearable length.
    pub(super) fn answered(code: ErrorCode, message: &str) -> Self {
        let message = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
        Self::Answered { code, message }
    }
}

impl From<ConnectError> for FleetError {
    fn from(error: ConnectError) -> Self {
        if let Some(source) = error.source_arc() {
            if let Some(failure) = source.downcast_ref::<RelayFailure>() {
                match failure {
                    RelayFailure::Relay(relay) => return Self::Relay(*relay),
                    RelayFailure::TokenRefused => return Self::TokenRefused,
                    RelayFailure::Transport(_) => {}
                }
            }
            return Self::Unreachable(Box::new(error));
        }
        match error.code {
            ErrorCode::DeadlineExceeded => Self::TimedOut,
            code => Self::answered(code, error.message.as_deref().unwrap_or_default()),
        }
    }
}

impl From<RelayFailure> for FleetError {
    fn from(failure: RelayFailure) -> Self {
        match failure {
            RelayFailure::Relay(relay) => Self::Relay(relay),
            RelayFailure::TokenRefused => Self::TokenRefused,
            RelayFailure::Transport(error) => Self::Unreachable(Box::new(error)),
        }
    }
}
