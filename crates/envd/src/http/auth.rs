//! The token on every call. Sits in front of the whole router, so that no route can be forgotten.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use wrenn_contract::guest::{HEALTH, INIT, TOKEN_HEADER};

use super::reply::Reply;
use crate::identity::TokenCheck;
use crate::state::Envd;

/// Lets a request pass that presents the token. `/init` checks for itself, because the first one sets the token.
pub async fn require_token(State(envd): State<Arc<Envd>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = (path == HEALTH && matches!(*request.method(), Method::GET | Method::HEAD)) || path == INIT;
    if open {
        return next.run(request).await;
    }
    let message = match envd.identity.check(request.headers().get(TOKEN_HEADER).map(|value| value.as_bytes())) {
        TokenCheck::Right => return next.run(request).await,
        TokenCheck::Wrong => "the access token is missing or wrong",
        TokenCheck::Unset => "this sandbox has no access token yet",
    };
    if is_rpc(path) {
        // RPC clients read the code as a word.
        let body = format!(r#"{{"code":"unauthenticated","message":"{message}"}}"#);
        return (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    Reply::new(StatusCode::UNAUTHORIZED, message).into_response()
}

/// RPC paths are `/package.Service/Method`.
fn is_rpc(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|service| service.contains('.'))
}
