//! Calls to login sites: JSON, over the one client for other sites.

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use wrenn_domain::limits::OAUTH_CALL_MAX;

use crate::outbound_http::{SiteClient, SiteError};
use crate::percent::escape;

/// A call that did not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    #[error("{url} cannot be reached")]
    Unreachable {
        url: String,
        #[source]
        source: SiteError,
    },
    #[error("{url} answered {status}")]
    Refused { url: String, status: u16 },
    #[error("{url} answered something unexpected: {what}")]
    Nonsense { url: String, what: &'static str },
}

/// POST of a form, answered with JSON.
///
/// # Errors
/// When the site cannot be reached or answers anything but success with the expected JSON.
pub async fn post_form<T: DeserializeOwned>(
    client: &SiteClient,
    url: &str,
    form: &[(&str, &str)],
) -> Result<T, OAuthError> {
    let body = form.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&");
    let request = Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    json(client, url, request, Bytes::from(body)).await
}

/// GET with a bearer token, answered with JSON.
///
/// # Errors
/// When the site cannot be reached or answers anything but success with the expected JSON.
pub async fn get<T: DeserializeOwned>(client: &SiteClient, url: &str, token: &str) -> Result<T, OAuthError> {
    let request =
        Request::builder().method(Method::GET).uri(url).header(header::AUTHORIZATION, format!("Bearer {token}"));
    json(client, url, request, Bytes::new()).await
}

async fn json<T: DeserializeOwned>(
    client: &SiteClient,
    url: &str,
    request: http::request::Builder,
    body: Bytes,
) -> Result<T, OAuthError> {
    let nonsense = |what| OAuthError::Nonsense { url: url.to_owned(), what };
    let request = request.header(header::ACCEPT, "application/json").body(Full::new(body));
    let request = request.map_err(|_| nonsense("the request cannot be written"))?;
    let sent = client.call(request, OAUTH_CALL_MAX).await;
    let response = sent.map_err(|source| OAuthError::Unreachable { url: url.to_owned(), source })?;
    let status = response.status();
    if !status.is_success() {
        return Err(OAuthError::Refused { url: url.to_owned(), status: status.as_u16() });
    }
    serde_json::from_slice(response.body()).map_err(|_| nonsense("it is not the JSON that was asked for"))
}
