//! Around every request: its id, the log line, and the catch of panics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::HeaderValue;
use wrenn_contract::rest::error::ErrorCode;

use super::error::ApiError;

/// Response header that carries the request's id.
pub(super) const REQUEST_ID: &str = "x-request-id";

tokio::task_local! {
    static ID: String;
}

/// Id of the request under way; outside of one (never in a handler) a blank one.
pub(super) fn id() -> String {
    ID.try_with(Clone::clone).unwrap_or_else(|_| "req_0000000000000000".to_owned())
}

/// What goes on after a request's answer, as a part of that request.
pub(super) async fn within<F: Future>(id: String, work: F) -> F::Output {
    ID.scope(id, work).await
}

/// Gives a request its id, and an answer whatever happens.
pub(super) async fn envelop(request: Request, next: Next) -> Response {
    let id = format!("req_{:016x}", getrandom::u64().unwrap_or_default());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let mut response = ID
        .scope(id.clone(), async {
            AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|panic| {
                tracing::error!(
                    request_id = crate::rest::request::id(),
                    what = panic_text(&*panic),
                    "a handler panicked"
                );
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

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
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

    #[tokio::test]
    async fn a_panic_in_a_handler_is_answered_in_the_envelope() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let app = Router::new().route("/", get(broken)).layer(from_fn(envelop));
        let response = app.oneshot(Request::new(Body::empty())).await.expect("infallible");
        assert_eq!(response.status(), 500);
        let id = response.headers()[REQUEST_ID].to_str().expect("text").to_owned();
        let body = response.into_body().collect().await.expect("whole").to_bytes();
        let body: ErrorBody = serde_json::from_slice(&body).expect("the envelope");
        assert_eq!((body.error.code, body.error.request_id), (ErrorCode::InternalError, id));
        assert!(!body.error.message.contains("on purpose"), "{}", body.error.message);
    }
}
