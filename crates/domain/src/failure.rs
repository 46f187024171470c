//! What outsiders may be told. Becomes HTTP only in `control/rest/error.rs` and RPC only in `agent/rpc/error.rs`.

/// Kind of a failure, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Not there, or someone else's.
    NotFound,
    /// The state or another holder of the name does not allow it.
    Conflict,
    /// The sandbox is not running.
    NotRunning,
    /// The thing to be made is there already.
    AlreadyExists,
    /// The request itself is wrong.
    Invalid,
    /// More bytes than the route takes.
    TooLarge,
    /// No credential or a wrong one.
    Unauthorized,
    /// Seen, but not allowed.
    Forbidden,
    /// The team runs as many sandboxes as it may.
    OverQuota,
    /// The team's vCPU limit.
    OverVcpuQuota,
    /// The team's memory limit.
    OverMemoryQuota,
    /// The team's limits cannot be told.
    LimitsUnknown,
    /// The team's usage cannot be told.
    UsageUnknown,
    /// A distribution's own part refused or failed to set an account up.
    SignupRefused,
    /// No host has room.
    NoCapacity,
    /// No host there is could ever hold it.
    Unsatisfiable,
    /// A range outside of what is there.
    OutOfRange,
    /// Something needed is away for now; trying again is right.
    Unavailable,
    /// Took longer than allowed.
    Timeout,
    /// The sandbox's disk has no room.
    DiskFull,
    /// Whoever runs this installation has not set it up for this.
    NotConfigured,
    /// A host or guest answered nonsense.
    Upstream,
    /// A fault of ours.
    Internal,
}

/// A failure fit to be shown: the kind and a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

impl Failure {
    /// A failure of `kind` with the text shown to the user.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Shorthand for [`FailureKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Invalid, message)
    }

    /// Shorthand for [`FailureKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotFound, message)
    }
}
