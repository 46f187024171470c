//! The agent's guest relay: how the control plane reaches what runs inside a sandbox.
//!
//! `{agent}/sandboxes/{sandbox id}/guest{path}` is passed to envd's `{path}` unchanged, with the sandbox's access token put
//! in and the caller's removed. Bodies stream both ways. The relay counts as activity while it lasts. Its own
//! failures are marked with [`RELAY_ERROR_HEADER`], and all answers of envd with [`RELAYED_HEADER`], so that neither is ever mistaken
//! for the other.
//!
//! `{agent}/sandboxes/{sandbox id}/ports/{port}` with `Connection: Upgrade` and `Upgrade: wrenn-tcp` is a raw connection to that
//! port of the guest: 101, then bytes both ways, each side's end passed on for itself. Ports of the guest's loopback are reached
//! too. A tunnel whose guest ends is reset, not closed, so that half an answer cannot pass for a whole one.

/// Response header set when the agent, not envd, answered: the value is a [`RelayError`] code.
pub const RELAY_ERROR_HEADER: &str = "x-wrenn-relay-error";
/// Response header on every answer that envd gave. Without it the agent itself answered; a guest can set neither this nor
/// [`RELAY_ERROR_HEADER`].
pub const RELAYED_HEADER: &str = "x-wrenn-relayed";
/// Header with the host's own bearer token on every call to the agent (RPC and relay), `Bearer {token}`.
pub const AUTH_HEADER: &str = "authorization";

/// Path prefix of the guest relay for one sandbox, without a trailing slash: append envd's path.
pub fn guest_relay_path(sandbox: &wrenn_domain::ids::SandboxId) -> String {
    format!("/sandboxes/{sandbox}/guest")
}

/// Path of the tunnel to one port of a sandbox.
pub fn port_tunnel_path(sandbox: &wrenn_domain::ids::SandboxId, port: u16) -> String {
    format!("/sandboxes/{sandbox}/ports/{port}")
}

/// Why the relay could not pass a request to envd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayError {
    /// This host has no such sandbox (404).
    NotFound,
    /// The sandbox is not running (409).
    NotRunning,
    /// The guest did not answer (502).
    Unresponsive,
    /// Too many calls are under way on this sandbox (503).
    Busy,
    /// Nobody in the guest listens on that port (502).
    Refused,
}

impl RelayError {
    /// Value of [`RELAY_ERROR_HEADER`].
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => wrenn_domain::ErrorCode::NotFound.as_str(),
            Self::NotRunning => "not_running",
            Self::Unresponsive => "unresponsive",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }

    /// HTTP status the agent answers with.
    pub fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::NotRunning => 409,
            Self::Unresponsive | Self::Refused => 502,
            Self::Busy => 503,
        }
    }

    /// Reads [`RELAY_ERROR_HEADER`].
    pub fn parse(code: &str) -> Option<Self> {
        let all = [Self::NotFound, Self::NotRunning, Self::Unresponsive, Self::Busy, Self::Refused];
        all.into_iter().find(|e| e.code() == code)
    }
}
