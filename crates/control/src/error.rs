//! Why an act of the services failed. Only `answer.rs` turns this into HTTP.

use connectrpc::ErrorCode as Code;
use wrenn_contract::host::RelayError;
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::quota::Exceeded;
use wrenn_store::StoreError;
use wrenn_store::pg::QuotaRefusal;

use crate::fleet::FleetError;
use crate::scheduler::AssignError;

/// A service call that did not work.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Something the caller may be told as it is.
    #[error("{0}")]
    Failure(#[from] Failure),
    /// Failure the caller may be told as it is, caused by a host or guest.
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

impl From<AssignError> for ServiceError {
    fn from(error: AssignError) -> Self {
        match error {
            AssignError::NoRoom(failure) => Self::Failure(failure),
            AssignError::Refused(why) => Self::Failure(quota_refusal(why)),
            AssignError::TeamGone => {
                Self::Failure(Failure::new(FailureKind::Unauthorized, "the team of this credential is deleted"))
            }
            AssignError::TemplateGone(name) => {
                Self::Failure(Failure::not_found(format!("the template {name} was deleted a moment ago")))
            }
            AssignError::Store(error) => Self::Store(error),
        }
    }
}

/// Words a failed call into a guest for the user, by kind and never by text.
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

/// Words a refusal by a team's bounds for the caller.
pub fn quota_refusal(why: QuotaRefusal) -> Failure {
    let (kind, text) = match why {
        QuotaRefusal::Exceeded(Exceeded::Sandboxes { max }) => {
            (FailureKind::OverQuota, format!("the team may run {max} capsules at once; delete or pause some first"))
        }
        QuotaRefusal::Exceeded(Exceeded::Kept { max }) => (
            FailureKind::OverQuota,
            format!("the team may keep {max} capsules, paused ones included; delete some first"),
        ),
        QuotaRefusal::Exceeded(Exceeded::Vcpus { max }) => (
            FailureKind::OverVcpuQuota,
            format!("the team may use {max} vCPUs at once; ask for fewer, or delete or pause capsules first"),
        ),
        QuotaRefusal::Exceeded(Exceeded::MemoryMib { max }) => (
            FailureKind::OverMemoryQuota,
            format!("the team may use {max} MiB of memory at once; ask for less, or delete or pause capsules first"),
        ),
        QuotaRefusal::LimitsUnknown => {
            (FailureKind::LimitsUnknown, "the team's limits cannot be told now; try again".to_owned())
        }
        QuotaRefusal::UsageUnknown => {
            (FailureKind::UsageUnknown, "the team's usage cannot be told now; try again".to_owned())
        }
    };
    Failure::new(kind, text)
}
