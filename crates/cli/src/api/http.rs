//! JSON calls and streamed bodies over HTTP/1.1, with or without TLS.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::base_url::BaseUrl;
use wrenn_domain::key::ApiKey;

use super::ApiError;

/// Bytes of a JSON answer; a list of every capsule a host can hold is far below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Seconds to wait for the head of an ordinary answer; above every server-side deadline of a short call.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// A health check that takes longer is as good as none.
const HEALTH_WAIT: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("wrenn-cli/", env!("CARGO_PKG_VERSION"));

type Body = BoxBody<Bytes, std::io::Error>;

/// Where and as whom to call.
#[derive(Debug, Clone)]
pub struct Connection {
    pub base_url: String,
    pub api_key: Option<String>,
}

/// A client of one control plane.
#[derive(Clone)]
pub struct Client {
    base_url: String,
    key: Option<ApiKey>,
    hyper: Hyper<HttpsConnector<HttpConnector>, Body>,
}

impl Client {
    /// Checks the address and the key's form; opens no connection yet.
    ///
    /// # Errors
    /// Address or key is malformed, or this machine's certificates cannot be read.
    pub fn new(connection: &Connection) -> Result<Self, ApiError> {
        let base_url = connection.base_url.parse::<BaseUrl>();
        let base_url = base_url
            .map_err(|error| ApiError::BadBaseUrl {
                base_url: crate::text::plain(&connection.base_url),
                reason: error.to_string(),
            })?
            .to_string();
        let key = match connection.api_key.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| ApiError::MalformedKey)?),
        };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| ApiError::Unreachable { base_url: base_url.clone(), reason: error.to_string() })?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let hyper = Hyper::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base_url, key, hyper })
    }

    /// The address given.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Whether a control plane answers at all; needs no key.
    ///
    /// # Errors
    /// Nothing answers, or no control plane does.
    pub async fn health(&self) -> Result<serde_json::Value, ApiError> {
        let request = Request::get(format!("{}/health", self.base_url))
            .body(empty())
            .map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        let response = self.call(request, Some(HEALTH_WAIT)).await?;
        self.json(response).await
    }

    /// GET that answers JSON.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or answers something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let response = self.send(Method::GET, path, None, empty(), Some(ANSWER_WAIT)).await?;
        self.json(response).await
    }

    /// GET that answers bytes.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or its answer breaks off.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        read(self.send(Method::GET, path, None, empty(), Some(ANSWER_WAIT)).await?).await
    }

    /// POST of JSON that answers JSON.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or answers something else.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ApiError> {
        let response = self.post_raw(path, body).await?;
        self.json(response).await
    }

    /// POST of JSON that answers JSON; needs no key and sends none.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or answers something else.
    pub async fn post_open<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ApiError> {
        let json = serde_json::to_vec(body).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        let request = Request::post(format!("{}{path}", self.base_url))
            .header("content-type", "application/json")
            .header("user-agent", USER_AGENT)
            .body(full(json))
            .map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        let response = self.call(request, Some(ANSWER_WAIT)).await?;
        if response.status().is_success() { self.json(response).await } else { Err(self.refusal(response).await) }
    }

    /// JSON whose answer has no body.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn send_json<B: Serialize>(&self, method: Method, path: &str, body: &B) -> Result<(), ApiError> {
        let json = serde_json::to_vec(body).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        self.send(method, path, Some("application/json"), full(json), Some(ANSWER_WAIT)).await.map(drop)
    }

    /// POST of JSON whose answer is streamed by the caller.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn post_raw<B: Serialize>(&self, path: &str, body: &B) -> Result<Response<Incoming>, ApiError> {
        let json = serde_json::to_vec(body).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        self.send(Method::POST, path, Some("application/json"), full(json), Some(ANSWER_WAIT)).await
    }

    /// POST or DELETE whose answer has no body.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn empty(&self, method: Method, path: &str) -> Result<(), ApiError> {
        self.send(method, path, None, empty(), Some(ANSWER_WAIT)).await.map(drop)
    }

    /// POST of a streamed body. No bound on its length or duration: the server sets them.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or the stream failed.
    pub async fn post_stream<S>(&self, path: &str, content_type: &str, parts: S) -> Result<(), ApiError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    {
        let body = BodyExt::boxed(StreamBody::new(parts.map_ok(Frame::data)));
        self.send(Method::POST, path, Some(content_type), body, None).await.map(drop)
    }

    /// GET of server-sent events, after the one seen last. No bound on how long it lasts.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn watch(&self, path: &str, last: Option<&str>) -> Result<Response<Incoming>, ApiError> {
        let mut request = self.request(Method::GET, path)?.header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(empty()).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        let response = self.call(request, Some(ANSWER_WAIT)).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// GET with an upgrade to a WebSocket.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or does not change the protocol.
    pub async fn upgrade(&self, path: &str, key: &str) -> Result<hyper::upgrade::Upgraded, ApiError> {
        let request = self
            .request(Method::GET, path)?
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", key)
            .body(empty())
            .map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        let response = self.call(request, Some(ANSWER_WAIT)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        hyper::upgrade::on(response).await.map_err(|e| ApiError::Broken { reason: e.to_string() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
        wait: Option<Duration>,
    ) -> Result<Response<Incoming>, ApiError> {
        let mut request = self.request(method, path)?;
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        let request = request.body(body).map_err(|e| ApiError::Broken { reason: e.to_string() })?;
        let response = self.call(request, wait).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    fn request(&self, method: Method, path: &str) -> Result<http::request::Builder, ApiError> {
        let key = self.key.as_ref().ok_or(ApiError::NoKey)?;
        Ok(Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base_url))
            .header("x-api-key", key.reveal())
            .header("user-agent", USER_AGENT))
    }

    async fn call(&self, request: Request<Body>, wait: Option<Duration>) -> Result<Response<Incoming>, ApiError> {
        let unreachable = |reason: String| ApiError::Unreachable { base_url: self.base_url.clone(), reason };
        let answer = self.hyper.request(request);
        let result = match wait {
            None => answer.await,
            Some(limit) => tokio::time::timeout(limit, answer)
                .await
                .map_err(|_| unreachable(format!("no answer within {} s", limit.as_secs())))?,
        };
        result.map_err(|error| unreachable(root_cause(&error)))
    }

    async fn json<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ApiError> {
        let status = response.status().as_u16();
        let body = read(response).await?;
        serde_json::from_slice(&body).map_err(|_| ApiError::NotWrenn { base_url: self.base_url.clone(), status })
    }

    async fn refusal(&self, response: Response<Incoming>) -> ApiError {
        let status = response.status().as_u16();
        let body = match read(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => ApiError::Refused { status, body: Box::new(body) },
            Err(_) => ApiError::NotWrenn { base_url: self.base_url.clone(), status },
        }
    }
}

/// Reads a whole answer, bounded.
async fn read(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .map_err(|error| ApiError::Broken { reason: error.to_string() })
}

fn empty() -> Body {
    full(Vec::new())
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
