//! Why a service call failed. Only `rest/error.rs` turns this into HTTP.

use connectrpc::ErrorCode as Code;
use wrenn_contract::host::RelayError;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_store::StoreError;

use crate::extension::limits;
use crate::fleet::FleetError;
use crate::scheduler::PlaceError;

/// A service call that did not work.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Something the caller may be told as it is.
    #[error("{0}")]
    Failure(#[from] Failure),
    /// The same, caused by a host or guest.
    #[error("{failure}")]
    Host {
        failure: Failure,
        #[source]
        source: FleetError,
    },
    /// Too much at once; trying again soon is right.
    #[error("{0}")]
    Busy(String),
    /// Tried too often; again after `wait`.
    #[error("{failure}")]
    TooMany { failure: Failure, wait: std::time::Duration },
    /// The database.
    #[error("the database call failed")]
    Store(#[from] StoreError),
}

impl ServiceError {
    /// Kind of what the caller is told, where it has one.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Failure(failure) | Self::Host { failure, .. } | Self::TooMany { failure, .. } => Some(failure.kind),
            Self::Busy(_) | Self::Store(_) => None,
        }
    }
}

impl From<PlaceError> for ServiceError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::NoPlace(failure) => Self::Failure(failure),
            PlaceError::Refused(why) => Self::Failure(limits::refusal(why)),
            PlaceError::TeamGone => {
                Self::Failure(Failure::new(FailureKind::Unauthorized, "the team of this credential is deleted"))
            }
            PlaceError::Store(error) => Self::Store(error),
        }
    }
}

/// What a failed call into a guest means for the user, by kind and never by text.
pub fn guest_error(error: FleetError) -> ServiceError {
    let failure = match &error {
        FleetError::Unreachable(_) | FleetError::TimedOut | FleetError::TokenRefused => {
            Failure::new(FailureKind::Unavailable, "the capsule's host cannot be reached now; try again")
        }
        FleetError::Relay(RelayError::NotFound | RelayError::NotRunning) => {
            Failure::new(FailureKind::NotRunning, "the capsule is not running on its host")
        }
        FleetError::Relay(RelayError::Unresponsive) => {
            Failure::new(FailureKind::Upstream, "the capsule does not answer; it may be overloaded or have crashed")
        }
        FleetError::Relay(RelayError::Refused) => Failure::new(
            FailureKind::Upstream,
            "nothing listens on that port in the capsule; start a server there (`envd ports` inside lists what listens)",
        ),
        FleetError::Relay(RelayError::Busy) => {
            return ServiceError::Busy("too many calls are under way on this capsule; try again".to_owned());
        }
        FleetError::Nonsense(_) => Failure::new(FailureKind::Upstream, "the capsule answered something unexpected"),
        FleetError::Answered { code, message } => return answered(*code, message.clone(), error),
    };
    ServiceError::Host { failure, source: error }
}

fn answered(code: Code, message: String, source: FleetError) -> ServiceError {
    let said = |kind, fallback: &str| {
        Failure::new(kind, if message.is_empty() { fallback.to_owned() } else { message.clone() })
    };
    let failure = match code {
        Code::NotFound => said(FailureKind::NotFound, "there is no such thing in the capsule"),
        Code::InvalidArgument | Code::OutOfRange => said(FailureKind::Invalid, "the capsule refused the request"),
        Code::AlreadyExists => said(FailureKind::AlreadyExists, "it is there already"),
        Code::PermissionDenied => said(FailureKind::Forbidden, "the capsule's user may not do this"),
        Code::FailedPrecondition | Code::Aborted => said(FailureKind::Conflict, "its state does not allow this"),
        Code::ResourceExhausted => said(FailureKind::DiskFull, "the capsule has no room left"),
        Code::DeadlineExceeded => said(FailureKind::Timeout, "the capsule took too long"),
        _ => Failure::new(FailureKind::Upstream, "the capsule answered something unexpected"),
    };
    ServiceError::Host { failure, source }
}
