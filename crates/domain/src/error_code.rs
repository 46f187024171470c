//! The closed set of error codes: from the guest agent and the host agent up to REST and the command line.
//!
//! Owns: [`ErrorCode`] with its wire string and HTTP status, and [`SandboxErrorCode`], the code stored with a failed sandbox.
//! No string literal of a code stands anywhere else. A code never changes its meaning: SDKs choose the exception class by it.

use crate::string_enum::{UnknownWord, string_enum};

string_enum! {
    /// Every code a client can meet, in the order of their status.
    ErrorCode {
        /// Malformed JSON, bad id, failed validation.
        InvalidRequest = "invalid_request",
        /// No credential, or one that is not valid.
        Unauthorized = "unauthorized",
        /// The team runs as many capsules as it may.
        ConcurrentSandboxLimit = "concurrent_sandbox_limit",
        /// The team's vCPU limit would be passed.
        VcpuLimit = "vcpu_limit",
        /// The team's memory limit would be passed.
        MemoryLimit = "memory_limit",
        /// The team's limits cannot be told now; try again.
        LimitsUnavailable = "limits_unavailable",
        /// The team's usage cannot be told now; try again.
        UsageUnavailable = "usage_unavailable",
        /// The caller may see this but not do it.
        Forbidden = "forbidden",
        /// Not there, or another team's.
        NotFound = "not_found",
        /// The path exists, the method does not.
        MethodNotAllowed = "method_not_allowed",
        /// The body, or the rest of it, did not come in time.
        RequestTimeout = "request_timeout",
        /// The name is taken or the state does not allow it.
        Conflict = "conflict",
        /// The capsule is not running.
        InvalidState = "invalid_state",
        /// The directory or name is there already.
        AlreadyExists = "already_exists",
        /// The body is larger than this route takes.
        PayloadTooLarge = "payload_too_large",
        /// The body is of a media type this route does not take.
        UnsupportedMediaType = "unsupported_media_type",
        /// The range lies outside of the file.
        RangeNotSatisfiable = "range_not_satisfiable",
        /// No host of this installation could ever hold it; ask for less.
        Unprocessable = "unprocessable",
        /// Too many requests; Retry-After says when.
        RateLimited = "rate_limited",
        /// A fault of ours; the request id finds it in the log.
        InternalError = "internal_error",
        /// The account could not be set up; the same sign-up may be tried again.
        SignupHookFailed = "signup_hook_failed",
        /// This installation is not set up for it; ask who runs it.
        NotConfigured = "not_configured",
        /// The host or the guest answered something unexpected.
        AgentError = "agent_error",
        /// The capsule's host cannot be reached now; try again.
        HostUnavailable = "host_unavailable",
        /// No host has room for this capsule now; try again or ask for less.
        NoHostsAvailable = "no_hosts_available",
        /// The control plane's database cannot be reached now; try again.
        ServiceUnavailable = "service_unavailable",
        /// The command or call took longer than its time-out.
        Timeout = "timeout",
        /// The capsule's disk has no room for this.
        DiskFull = "disk_full",
    }
}

impl ErrorCode {
    /// HTTP status the code is answered with.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::ConcurrentSandboxLimit
            | Self::VcpuLimit
            | Self::MemoryLimit
            | Self::LimitsUnavailable
            | Self::UsageUnavailable => 402,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::InvalidState | Self::AlreadyExists => 409,
            Self::RequestTimeout => 408,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::Unprocessable => 422,
            Self::RateLimited => 429,
            Self::InternalError | Self::SignupHookFailed => 500,
            Self::NotConfigured => 501,
            Self::AgentError => 502,
            Self::HostUnavailable | Self::NoHostsAvailable | Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::DiskFull => 507,
        }
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Code stored with a sandbox's failure and given in the metadata of its event: the operation that did not work while the
/// sandbox lives on, or why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SandboxErrorCode {
    /// A pause did not work; the sandbox runs on.
    PauseFailed,
    /// A resume did not work; the sandbox stays as it was.
    ResumeFailed,
    /// A snapshot did not work; the sandbox goes on.
    SnapshotFailed,
    /// The sandbox could not be made, or ended by itself.
    Ended(ErrorCode),
}

impl SandboxErrorCode {
    /// Operations that can fail while the sandbox lives on.
    const OPERATIONS: [Self; 3] = [Self::PauseFailed, Self::ResumeFailed, Self::SnapshotFailed];

    /// The word stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PauseFailed => "pause_failed",
            Self::ResumeFailed => "resume_failed",
            Self::SnapshotFailed => "snapshot_failed",
            Self::Ended(code) => code.as_str(),
        }
    }
}

impl std::str::FromStr for SandboxErrorCode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match Self::OPERATIONS.into_iter().find(|code| code.as_str() == text) {
            Some(code) => Ok(code),
            None => text.parse().map(Self::Ended),
        }
    }
}

impl std::fmt::Display for SandboxErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_its_status_and_its_order_are_as_agreed() {
        let table: String = ErrorCode::ALL.iter().map(|code| format!("{} {code}\n", code.status())).collect();
        insta::assert_snapshot!(table);
        assert!(ErrorCode::ALL.is_sorted_by_key(|code| code.status()));
    }

    #[test]
    fn every_stored_code_parses_back_and_no_two_share_a_word() {
        let all =
            SandboxErrorCode::OPERATIONS.into_iter().chain(ErrorCode::ALL.iter().copied().map(SandboxErrorCode::Ended));
        for code in all {
            assert_eq!(code.as_str().parse(), Ok(code));
        }
        assert_eq!("gone_fishing".parse::<SandboxErrorCode>(), Err(UnknownWord("gone_fishing".to_owned())));
    }
}
