//! The transport of every call to a host: puts the host token in, tells the relay's own failures from the guest's.

use bytes::Bytes;
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use wrenn_contract::host::{AUTH_HEADER, RELAY_ERROR_HEADER, RELAYED_HEADER, RelayError};

use super::connector::Connector;

pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type RelayBody = BoxBody<Bytes, BodyError>;

/// The pooled client of hosts' agents.
pub(super) type HttpClient = Client<Connector, RelayBody>;

/// Why no answer of the other side came back.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayFailure {
    #[error("the relay answered {}", .0.code())]
    Relay(RelayError),
    #[error("the host refuses the token")]
    TokenRefused,
    #[error("the connection to the host failed")]
    Transport(#[source] hyper_util::client::legacy::Error),
}

#[derive(Clone)]
pub(super) struct RelayTransport {
    pub(super) http: HttpClient,
    pub(super) token: Option<HeaderValue>,
}

impl RelayTransport {
    /// Sends a request; an answer made by the relay itself is an error.
    pub(super) async fn request(self, mut request: Request<RelayBody>) -> Result<Response<Incoming>, RelayFailure> {
        if let Some(token) = self.token {
            request.headers_mut().insert(AUTH_HEADER, token);
        }
        let response = self.http.request(request).await.map_err(RelayFailure::Transport)?;
        // A guest may answer 401 as well, and is not to be taken for its host.
        let relayed = response.headers().contains_key(RELAYED_HEADER);
        let mark = response.headers().get(RELAY_ERROR_HEADER).and_then(|v| v.to_str().ok());
        if let Some(code) = mark {
            return Err(RelayFailure::Relay(RelayError::parse(code).unwrap_or(RelayError::Unresponsive)));
        }
        if response.status() == StatusCode::UNAUTHORIZED && !relayed {
            return Err(RelayFailure::TokenRefused);
        }
        Ok(response)
    }
}

impl ClientTransport for RelayTransport {
    type ResponseBody = Incoming;
    type Error = RelayFailure;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<Incoming>, RelayFailure>> {
        let transport = self.clone();
        Box::pin(transport.request(request.map(|body| body.map_err(BodyError::from).boxed())))
    }
}
