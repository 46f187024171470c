//! Around every request: its id, the log line, and the catch of panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::header::{HOST, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderValue, Version};
use wrenn_contract::rest::error::ErrorCode;

use crate::answer::{ApiError, request_id, within_request};
use crate::auth::session::middleware::is_secure;
use crate::context::Context;
use crate::panics;

/// Response header that carries the request's id.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Adds the headers that tell browsers to trust nothing but what an answer says it is, and to come back over TLS alone.
pub(super) async fn secure_headers(State(ctx): State<Arc<Context>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let secure = is_secure(&parts, &ctx);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if secure {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// Gives a request its id, and an answer whatever happens.
pub(super) async fn envelop(request: Request, next: Next) -> Response {
    let Ok(number) = getrandom::u64() else {
        return ApiError::new(ErrorCode::InternalError, "the system gives no random numbers").into_response();
    };
    let id = format!("req_{number:016x}");
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let mut response = within_request(id.clone(), async {
        if let Some(problem) = host_problem(&request) {
            return ApiError::new(ErrorCode::InvalidRequest, problem).into_response();
        }
        AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|panic| {
            tracing::error!(request_id = request_id(), what = panics::message(&*panic), "a handler panicked");
            ApiError::new(ErrorCode::InternalError, "something went wrong here; the request id finds it in the log")
                .into_response()
        })
    })
    .await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    tracing::debug!(request_id = id, %method, path, status = response.status().as_u16(), ms = began.elapsed().as_millis() as u64, "request");
    response
}

/// Finds what is wrong with the Host of an HTTP/1.1 request: there is exactly one, and it names a host (RFC 9112, section 3.2).
fn host_problem(request: &Request) -> Option<&'static str> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Some("the request has no Host header"),
        (Some(_), Some(_)) => Some("the request has several Host headers"),
        (Some(host), None) => {
            let named = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
            let good = named.is_some_and(|named| {
                let port = named
                    .as_str()
                    .get(named.host().len()..)
                    .and_then(|rest| rest.strip_prefix(':'))
                    .unwrap_or_default();
                let is_port = port.is_empty() || port.parse::<u16>().is_ok();
                is_port && !named.host().is_empty() && !named.as_str().contains('@')
            });
            (!good).then_some("the Host header is not the name of a host")
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use wrenn_contract::rest::error::ErrorBody;

    use super::*;

    fn asked(hosts: &[&str]) -> Request {
        let mut request = Request::new(Body::empty());
        for host in hosts {
            request.headers_mut().append(HOST, host.parse().expect("a value"));
        }
        request
    }

    #[test]
    fn a_request_names_one_host() {
        for good in ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "a.example.com"] {
            assert_eq!(host_problem(&asked(&[good])), None, "{good}");
        }
        for bad in [&[][..], &["a", "a"], &[""], &["a b"], &["u@a"], &["a/b"], &[":80"], &["a:b"]] {
            assert!(host_problem(&asked(bad)).is_some(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_answered_in_the_envelope() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let app = Router::new().route("/", get(broken)).layer(from_fn(envelop));
        let response = app.oneshot(asked(&["localhost"])).await.expect("infallible");
        assert_eq!(response.status(), 500);
        let id = response.headers()[REQUEST_ID].to_str().expect("text").to_owned();
        let body = response.into_body().collect().await.expect("whole").to_bytes();
        let body: ErrorBody = serde_json::from_slice(&body).expect("the envelope");
        assert_eq!((body.error.code, body.error.request_id), (ErrorCode::InternalError, id));
        assert!(!body.error.message.contains("on purpose"), "{}", body.error.message);
    }
}
