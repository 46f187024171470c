//! The public API: each handler extracts, calls one service function, renders.
//!
//! Owns: routes, the API description generated from them, the error envelope. Must never: hold a rule or touch the
//! store or a host.

mod capsules;
mod docs;
mod error;
mod exec;
mod exec_stream;
mod extract;
mod files;
mod lifecycle;
mod meta;
mod processes;
mod request;
mod snapshots;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::context::Context;

pub use error::ApiError;

#[derive(OpenApi)]
#[openapi(
    info(title = "Wrenn", description = "Run untrusted code in microVMs. Send your key in X-API-Key.", license(name = "Apache-2.0")),
    tags(
        (name = "capsules", description = "Create, look at, pause, fork and end capsules"),
        (name = "processes", description = "Run commands"),
        (name = "files", description = "Files in a capsule"),
        (name = "templates", description = "What capsules are made from"),
        (name = "meta", description = "The server itself"),
    ),
    modifiers(&Key),
)]
struct Description;

struct Key;

impl utoipa::Modify for Key {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        api.components.get_or_insert_default().add_security_scheme("api_key", key);
    }
}

/// Every route, with the layers around them.
pub fn router(ctx: Arc<Context>) -> Router {
    let (router, mut api) = routes().split_for_parts();
    api.info.version = ctx.version.clone();
    let docs = docs::router(&api);
    router
        .with_state(ctx)
        .merge(docs)
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(from_fn(request::envelop))
}

/// The API description, as /openapi.yaml serves it but for the version.
pub fn description() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(capsules::create, capsules::list))
        .routes(routes!(capsules::get, capsules::delete))
        .routes(routes!(capsules::ping))
        .routes(routes!(lifecycle::pause))
        .routes(routes!(lifecycle::resume))
        .routes(routes!(lifecycle::fork))
        .routes(routes!(exec::exec))
        .routes(routes!(exec_stream::exec_stream))
        .routes(routes!(processes::list))
        .routes(routes!(processes::kill))
        .routes(routes!(uploads::write))
        .routes(routes!(uploads::stream_write))
        .routes(routes!(files::read))
        .routes(routes!(files::stream_read))
        .routes(routes!(files::list))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::remove))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::delete))
        .routes(routes!(meta::health))
}
