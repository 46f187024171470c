//! The error envelope and its codes. SDKs choose the exception class by `code`, so a code never changes its meaning.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of every answer with a status of 400 or above.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong, for people and programs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    pub code: ErrorCode,
    /// Says what to do.
    pub message: String,
    /// `req_` and 16 hex characters, also in the X-Request-ID response header.
    pub request_id: String,
}

macro_rules! codes {
    ($($variant:ident $text:literal $status:literal $doc:literal,)*) => {
        /// Every code a client can meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum ErrorCode {
            $(#[doc = $doc] #[serde(rename = $text)] $variant,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their status.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as it stands in JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// HTTP status it is answered with.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 400 "Malformed JSON, bad id, failed validation.",
    Unauthorized "unauthorized" 401 "No credential, or one that is not valid.",
    ConcurrentSandboxLimit "concurrent_sandbox_limit" 402 "The team runs as many capsules as it may.",
    VcpuLimit "vcpu_limit" 402 "The team's vCPU limit would be passed.",
    MemoryLimit "memory_limit" 402 "The team's memory limit would be passed.",
    LimitsUnavailable "limits_unavailable" 402 "The team's limits cannot be told now; try again.",
    UsageUnavailable "usage_unavailable" 402 "The team's usage cannot be told now; try again.",
    Forbidden "forbidden" 403 "The caller may see this but not do it.",
    NotFound "not_found" 404 "Not there, or another team's.",
    MethodNotAllowed "method_not_allowed" 405 "The path exists, the method does not.",
    Conflict "conflict" 409 "The name is taken or the state does not allow it.",
    InvalidState "invalid_state" 409 "The capsule is not running.",
    AlreadyExists "already_exists" 409 "The directory or name is there already.",
    PayloadTooLarge "payload_too_large" 413 "The body is larger than this route takes.",
    RateLimited "rate_limited" 429 "Too many requests; Retry-After says when.",
    InternalError "internal_error" 500 "A fault of ours; the request id finds it in the log.",
    SignupHookFailed "signup_hook_failed" 500 "The account could not be set up; the same sign-up may be tried again.",
    NotConfigured "not_configured" 501 "This installation is not set up for it; ask who runs it.",
    AgentError "agent_error" 502 "The host or the guest answered something unexpected.",
    HostUnavailable "host_unavailable" 503 "The capsule's host cannot be reached now; try again.",
    NoHostsAvailable "no_hosts_available" 503 "No host has room for this capsule now; try again or ask for less.",
    ServiceUnavailable "service_unavailable" 503 "The control plane's database cannot be reached now; try again.",
    Timeout "timeout" 504 "The command or call took longer than its time-out.",
    DiskFull "disk_full" 507 "The capsule's disk has no room for this.",
}
