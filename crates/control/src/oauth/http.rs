//! Calls to other sites: JSON over HTTP(S), bounded in time and size. Redirects are not followed.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use wrenn_domain::limits::{OAUTH_ANSWER_BYTES_MAX, OAUTH_CALL_MAX};

/// A call that did not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    #[error("{url} cannot be reached")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{url} answered {status}")]
    Refused { url: String, status: u16 },
    #[error("{url} answered something unexpected: {what}")]
    Nonsense { url: String, what: &'static str },
}

/// A client for such calls. Cheap to clone.
#[derive(Clone)]
pub struct SiteClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl SiteClient {
    /// A client that trusts the system's certificates.
    pub fn new() -> std::io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let tls = hyper_rustls::HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1();
        Ok(Self(Client::builder(TokioExecutor::new()).build(tls.wrap_connector(tcp))))
    }

    /// POST of a form, answered with JSON.
    pub async fn post_form<T: DeserializeOwned>(&self, url: &str, form: &[(&str, &str)]) -> Result<T, OAuthError> {
        let body = form.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&");
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.json(url, request, Bytes::from(body)).await
    }

    /// GET with a bearer token, answered with JSON.
    pub async fn get<T: DeserializeOwned>(&self, url: &str, token: &str) -> Result<T, OAuthError> {
        let request =
            Request::builder().method(Method::GET).uri(url).header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.json(url, request, Bytes::new()).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        url: &str,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<T, OAuthError> {
        let nonsense = |what| OAuthError::Nonsense { url: url.to_owned(), what };
        let request = request
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("wrenn/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|_| nonsense("the request cannot be written"))?;
        let away =
            |source: Box<dyn std::error::Error + Send + Sync>| OAuthError::Unreachable { url: url.to_owned(), source };
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| away(error.into()))?;
            let status = response.status();
            if !status.is_success() {
                return Err(OAuthError::Refused { url: url.to_owned(), status: status.as_u16() });
            }
            let body = Limited::new(response.into_body(), OAUTH_ANSWER_BYTES_MAX).collect().await.map_err(away)?;
            serde_json::from_slice(&body.to_bytes()).map_err(|_| nonsense("it is not the JSON that was asked for"))
        };
        tokio::time::timeout(OAUTH_CALL_MAX, exchange).await.map_err(|error| away(error.into()))?
    }
}

/// A value fit for a query or a form.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
