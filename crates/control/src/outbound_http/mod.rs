//! Calls to other sites: HTTP(S), bounded in time and size. Redirects are not followed, and nothing of an address is in an error:
//! it may carry a secret.

mod address_policy;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use wrenn_domain::limits::{SITE_ANSWER_BYTES_MAX, SITE_CONNECT_MAX};

use address_policy::Resolver;
pub use address_policy::{AddressPolicy, ReachError};

/// A call that was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error(transparent)]
    AddressPolicy(#[from] ReachError),
    #[error("it cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// A client for such calls. Cheap to clone.
#[derive(Clone)]
pub struct SiteClient {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    reach: AddressPolicy,
}

impl SiteClient {
    /// A client that trusts the system's certificates.
    ///
    /// # Errors
    /// When the system's certificate authorities cannot be read.
    pub fn new(reach: AddressPolicy) -> std::io::Result<Self> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(reach));
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(SITE_CONNECT_MAX));
        let tls = hyper_rustls::HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(tls.wrap_connector(tcp)), reach })
    }

    /// One call, whatever is answered.
    ///
    /// # Errors
    /// When the address may not be called, the site does not answer in time, or its answer is too large.
    pub async fn call(&self, mut request: Request<Full<Bytes>>, wait: Duration) -> Result<Response<Bytes>, SiteError> {
        self.reach.check_literal(request.uri())?;
        let agent = header::HeaderValue::from_static(concat!("wrenn/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        let exchange = async {
            let response = self.client.request(request).await.map_err(of_client)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, SITE_ANSWER_BYTES_MAX).collect().await.map_err(SiteError::Unreachable)?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(wait, exchange).await.map_err(|_| SiteError::TimedOut(wait))?
    }
}

/// A refusal of ours lies deep in the client's error.
fn of_client(error: hyper_util::client::legacy::Error) -> SiteError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(refused) = ReachError::inside(inner) {
            return refused.into();
        }
        cause = inner.source();
    }
    SiteError::Unreachable(error.into())
}
