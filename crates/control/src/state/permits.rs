//! The pools of what clients hold open: streams, tunnels, requests that wait, look-ups.

use std::sync::Arc;

use wrenn_domain::ids::{SandboxId, TeamId};
use wrenn_domain::limits::{
    ANSWER_BYTES_MAX, ANSWER_BYTES_PER_CREDENTIAL_MAX, BODY_BYTES_MAX, BODY_BYTES_PER_NETWORK_MAX, HELD_REQUESTS_MAX,
    HELD_REQUESTS_PER_SANDBOX_MAX, KEY_LOOKUPS_MAX, KEY_LOOKUPS_PER_NETWORK_MAX, LIVE_STREAMS_MAX,
    LIVE_STREAMS_PER_CREDENTIAL_MAX, LIVE_STREAMS_PER_TEAM_MAX, PROXY_LOOKUPS_MAX, PROXY_LOOKUPS_PER_PARTY_MAX,
    PROXY_TUNNELS_MAX, PROXY_TUNNELS_PER_SANDBOX_MAX, PROXY_TUNNELS_PER_TEAM_MAX, STREAMS_MAX, STREAMS_PER_SANDBOX_MAX,
};

use super::pool::{Full, Permit, Pool};
use crate::actor::Credential;

/// Permits of one connection to a port.
pub(crate) struct TunnelPermit {
    _sandbox: Permit<SandboxId>,
    _team: Permit<TeamId>,
}

/// Bytes that are held for an answer, put into its extensions: they are given back when the answer was sent.
#[derive(Clone)]
pub(crate) struct AnswerBytes {
    _held: Arc<Permit<Credential>>,
}

impl AnswerBytes {
    /// Binds a permit to an answer.
    pub(crate) fn new(held: Permit<Credential>) -> Self {
        Self { _held: Arc::new(held) }
    }
}

/// Pools of one process.
pub struct Permits {
    /// WebSockets, by the credential they were opened with.
    pub(crate) sockets: Arc<Pool<Credential>>,
    /// WebSockets, by the sandbox they lead into.
    pub(crate) sandboxes: Arc<Pool<SandboxId>>,
    /// Streams of events, by credential.
    pub(crate) feeds: Arc<Pool<Credential>>,
    /// Streams of events, by team; none for those of platform admins.
    pub(crate) feeds_by_team: Arc<Pool<Option<TeamId>>>,
    /// Connections to ports of sandboxes, by sandbox.
    tunnels: Arc<Pool<SandboxId>>,
    /// Connections to ports of sandboxes, by team.
    tunnels_by_team: Arc<Pool<TeamId>>,
    /// Requests that wait until a sandbox runs.
    pub(crate) held: Arc<Pool<SandboxId>>,
    /// Look-ups of sandboxes that anybody may ask for, by who asks.
    pub(crate) lookups: Arc<Pool<String>>,
    /// Bytes of answers that are collected, by credential.
    pub(crate) answer_bytes: Arc<Pool<Credential>>,
    /// Bytes of request bodies that are collected, by the network of the client.
    pub(crate) body_bytes: Arc<Pool<String>>,
    /// Look-ups of API keys, by the network of the client.
    pub(crate) key_lookups: Arc<Pool<String>>,
}

impl Permits {
    /// Makes the pools; a credential may have so many WebSockets.
    pub(crate) fn new(streams_per_credential: usize) -> Self {
        Self {
            sockets: Pool::new(STREAMS_MAX, streams_per_credential),
            sandboxes: Pool::new(STREAMS_MAX, STREAMS_PER_SANDBOX_MAX),
            feeds: Pool::new(LIVE_STREAMS_MAX, LIVE_STREAMS_PER_CREDENTIAL_MAX),
            feeds_by_team: Pool::new(LIVE_STREAMS_MAX, LIVE_STREAMS_PER_TEAM_MAX),
            tunnels: Pool::new(PROXY_TUNNELS_MAX, PROXY_TUNNELS_PER_SANDBOX_MAX),
            tunnels_by_team: Pool::new(PROXY_TUNNELS_MAX, PROXY_TUNNELS_PER_TEAM_MAX),
            held: Pool::new(HELD_REQUESTS_MAX, HELD_REQUESTS_PER_SANDBOX_MAX),
            lookups: Pool::new(PROXY_LOOKUPS_MAX, PROXY_LOOKUPS_PER_PARTY_MAX),
            answer_bytes: Pool::new(ANSWER_BYTES_MAX, ANSWER_BYTES_PER_CREDENTIAL_MAX),
            body_bytes: Pool::new(BODY_BYTES_MAX, BODY_BYTES_PER_NETWORK_MAX),
            key_lookups: Pool::new(KEY_LOOKUPS_MAX, KEY_LOOKUPS_PER_NETWORK_MAX),
        }
    }

    /// Takes the permits of a connection to a port of a team's sandbox.
    pub(crate) fn tunnel(&self, id: SandboxId, team: TeamId) -> Result<TunnelPermit, Full> {
        Ok(TunnelPermit { _sandbox: self.tunnels.take(id)?, _team: self.tunnels_by_team.take(team)? })
    }
}
