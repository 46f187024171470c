//! `/openapi.yaml` and `/docs`. The viewer is served from this binary: it works without internet.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::Config;

use super::error::no_such_route;

/// The viewer runs its own scripts and styles and talks to this server only.
const POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// Routes that need no state and no key.
pub(super) fn router(api: &OpenApi) -> Router {
    let yaml: Arc<str> = serde_yaml_ng::to_string(api).unwrap_or_default().into();
    let viewer = Arc::new(Config::from("/openapi.yaml"));
    Router::new()
        .route(
            "/openapi.yaml",
            get(move || std::future::ready(([(CONTENT_TYPE, "application/yaml")], yaml.to_string()))),
        )
        .route("/docs", get(|| std::future::ready(Redirect::permanent("/docs/"))))
        .route(
            "/docs/",
            get({
                let viewer = viewer.clone();
                move || file("index.html".to_owned(), viewer.clone())
            }),
        )
        .route("/docs/{*file}", get(move |Path(name): Path<String>| file(name, viewer.clone())))
}

async fn file(name: String, viewer: Arc<Config<'static>>) -> Response {
    let found = utoipa_swagger_ui::serve(&name, viewer).ok().flatten();
    match found {
        Some(file) => {
            let headers = [
                (CONTENT_TYPE, file.content_type),
                (CACHE_CONTROL, "max-age=3600".to_owned()),
                (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
            ];
            (headers, file.bytes.into_owned()).into_response()
        }
        None => no_such_route().await.into_response(),
    }
}
