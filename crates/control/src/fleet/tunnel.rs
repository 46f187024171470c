//! Raw connections to ports of guests: one upgraded request to the agent each.

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use wrenn_contract::guest::TUNNEL_PROTOCOL;
use wrenn_contract::host::port_tunnel_path;
use wrenn_domain::ids::SandboxId;
use wrenn_domain::limits::TUNNEL_OPEN_MAX;

use super::{Fleet, FleetError};

impl Fleet {
    /// Connects to a port of a sandbox on the host at `address`.
    ///
    /// # Errors
    /// When the host cannot be reached or opens no tunnel to the port in time.
    pub async fn tunnel(&self, address: &str, sandbox: &SandboxId, port: u16) -> Result<Upgraded, FleetError> {
        let uri = format!("{}{}", address.trim_end_matches('/'), port_tunnel_path(sandbox, port));
        let request = Request::get(uri)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, TUNNEL_PROTOCOL)
            .body(Empty::<Bytes>::new().map_err(|never| match never {}).boxed())
            .map_err(|_| FleetError::Nonsense("the host's address is not a URL".to_owned()))?;
        let opened = tokio::time::timeout(TUNNEL_OPEN_MAX, async {
            let response = self.transport().request(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(FleetError::Nonsense(format!(
                    "the agent opens no tunnels: it answers {}",
                    response.status()
                )));
            }
            hyper::upgrade::on(response).await.map_err(|error| FleetError::Unreachable(Box::new(error)))
        });
        opened.await.map_err(|_| FleetError::TimedOut)?
    }
}
