//! `/openapi.yaml`, `/openapi.json`, `/openapi-3.0.json` and `/docs`. The viewer is served from this binary: it works without internet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::sync::OnceCell;
use utoipa_swagger_ui::Config;
use wrenn_contract::rest::description::to_openapi_3_0;

use super::fallbacks::no_such_route;
use super::static_file::StaticFile;
use crate::sync::lock;

/// The viewer runs its own scripts and styles and talks to this server only.
const POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

/// Files of the viewer, prepared when they are first asked for. They are few and part of this binary.
struct Viewer {
    config: Arc<Config<'static>>,
    files: Mutex<HashMap<String, Arc<StaticFile>>>,
}

/// Routes that need no state and no key.
pub(super) fn router(api: Value) -> Router {
    // The description is a tree of texts of ours: it always serialises.
    let yaml = Bytes::from(serde_yaml_ng::to_string(&api).expect("the API description is plain data"));
    let json = Bytes::from(api.to_string());
    let old = Bytes::from(to_openapi_3_0(api).to_string());
    let viewer =
        Arc::new(Viewer { config: Arc::new(Config::from("/openapi.yaml")), files: Mutex::new(HashMap::new()) });
    let index = viewer.clone();
    Router::new()
        .merge(document("/openapi.yaml", "application/yaml", yaml))
        .merge(document("/openapi.json", "application/json", json))
        .merge(document("/openapi-3.0.json", "application/json", old))
        .route("/docs", get(|| std::future::ready(Redirect::permanent("/docs/"))))
        .route("/docs/", get(async move |headers: HeaderMap| index.file("index.html".to_owned(), &headers).await))
        .route(
            "/docs/{*file}",
            get(async move |Path(name): Path<String>, headers: HeaderMap| viewer.file(name, &headers).await),
        )
}

/// Route of one form of the description, prepared when it is first asked for.
fn document(path: &str, kind: &'static str, body: Bytes) -> Router {
    let prepared: Arc<OnceCell<StaticFile>> = Arc::default();
    let answer = async move |headers: HeaderMap| {
        let file = prepared.get_or_init(|| StaticFile::new(kind, "no-cache", body.clone()));
        file.await.answer(&headers)
    };
    Router::new().route(path, get(answer))
}

impl Viewer {
    async fn file(&self, name: String, request: &HeaderMap) -> Response {
        let known = lock(&self.files).get(&name).cloned();
        let file = match known {
            Some(file) => file,
            None => {
                let Some(found) = utoipa_swagger_ui::serve(&name, self.config.clone()).ok().flatten() else {
                    return no_such_route().await.into_response();
                };
                let bytes = Bytes::from(found.bytes.into_owned());
                let file = Arc::new(StaticFile::new(&found.content_type, "max-age=3600", bytes).await);
                lock(&self.files).insert(name, file.clone());
                file
            }
        };
        let mut response = file.answer(request);
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}
