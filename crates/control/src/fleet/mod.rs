//! Talking to hosts: lifecycle calls to the agent, and the guest relay behind which envd answers.
//!
//! Owns: the one pooled HTTP client, the host token, and turning every failure into a kind. Must never: decide what
//! to do about a failure, or touch the database.

mod captures;
pub mod client;
mod connector;
mod error;
pub mod guest;
mod relay;
pub mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wrenn_domain::limits::STREAM_HOST_BUFFER_BYTES;

use crate::ca::Ca;

pub use captures::ForkedChild;
pub use client::{HostClient, HostPhase, HostReport, HostReports, MetricPoint, Metrics};
use connector::Connector;
pub use connector::FleetSetupError;
pub use error::FleetError;
pub use guest::GuestClient;
use relay::{HttpClient, RelayTransport};

/// The way to every host.
#[derive(Clone)]
pub struct Fleet {
    http: HttpClient,
    /// For answers that last: what a connection holds while nothing comes is small, and does not grow when much does.
    streams: HttpClient,
    token: Option<HeaderValue>,
    call_max: Duration,
}

impl Fleet {
    /// `token` goes with every call; `call_max` bounds each lifecycle call. Hosts with an https address must have a certificate of
    /// `ca` for it, and get one from us.
    ///
    /// # Errors
    /// When the token cannot be sent in a header or the authority cannot be trusted.
    pub fn new(token: Option<&str>, ca: Option<Arc<Ca>>, call_max: Duration) -> Result<Self, FleetSetupError> {
        let connector = Connector::new(ca)?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(60)).pool_max_idle_per_host(64);
        let http = builder.build(connector.clone());
        let streams = builder.http1_read_buf_exact_size(STREAM_HOST_BUFFER_BYTES).build(connector);
        let header = |token| {
            let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| FleetSetupError::Token)?;
            header.set_sensitive(true);
            Ok(header)
        };
        let token = token.map(header).transpose()?;
        Ok(Self { http, streams, token, call_max })
    }

    /// The agent at `address` (a base URL).
    ///
    /// # Errors
    /// When the address is not a URL.
    pub fn host(&self, address: &str) -> Result<HostClient, FleetError> {
        HostClient::new(self.transport(), address, self.call_max)
    }

    /// The guest of a sandbox on the host at `address`.
    ///
    /// # Errors
    /// When the address is not a URL.
    pub fn guest(&self, address: &str, sandbox: &wrenn_domain::ids::SandboxId) -> Result<GuestClient, FleetError> {
        let streams = RelayTransport { http: self.streams.clone(), token: self.token.clone() };
        GuestClient::new(self.transport(), streams, address, sandbox)
    }

    fn transport(&self) -> RelayTransport {
        RelayTransport { http: self.http.clone(), token: self.token.clone() }
    }
}
