//! The public API: each handler extracts, calls one service function, renders.
//!
//! Owns: routes, the API description generated from them, the error envelope. Must never: hold a rule or touch the
//! store or a host.

mod admin;
mod audit;
mod auth;
mod capsules;
mod devices;
mod docs;
mod events;
mod exec;
mod extract;
mod fallbacks;
mod files;
mod keys;
mod lifecycle;
mod me;
mod meta;
mod notification_channels;
mod oauth;
mod output_text;
mod ports;
mod processes;
mod query_rules;
mod render;
mod request;
mod snapshots;
mod static_file;
mod streams;
mod teams;
mod uploads;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wrenn_contract::rest::description;
use wrenn_contract::rest::processes::{ExecClientFrame, ExecServerFrame, PtyClientFrame, PtyEncoding, PtyServerFrame};

use crate::auth::session::names::SESSION_COOKIE_NAME;
use query_rules::QueryRules;

use crate::context::Context;
use crate::extension::context::ServerContext;

#[derive(OpenApi)]
#[openapi(
    info(title = "Wrenn", description = "Run untrusted code in microVMs. Send your key in X-API-Key, or log in: a session is a cookie, and every method but GET, HEAD and OPTIONS needs the value of the cookie wrenn_csrf in the header X-CSRF-Token.", license(name = "Apache-2.0")),
    tags(
        (name = "capsules", description = "Create, look at, pause, fork and end capsules"),
        (name = "processes", description = "Run commands"),
        (name = "files", description = "Files in a capsule"),
        (name = "templates", description = "What capsules are made from"),
        (name = "accounts", description = "Sign-up, login, the own account"),
        (name = "teams", description = "Teams, members, the audit log"),
        (name = "keys", description = "API keys"),
        (name = "channels", description = "Where a team hears of what happens to its capsules"),
        (name = "admin", description = "For admins of the platform"),
        (name = "meta", description = "The server itself"),
    ),
    // What goes over WebSockets is named by no request or answer.
    components(schemas(ExecClientFrame, ExecServerFrame, PtyClientFrame, PtyServerFrame, PtyEncoding)),
    modifiers(&Key),
)]
struct Description;

struct Key;

impl utoipa::Modify for Key {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        let session = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE_NAME)));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("api_key", key);
        components.add_security_scheme("session", session);
    }
}

/// Every route, with the layers around them.
pub fn router(ctx: Arc<Context>) -> Router {
    let (router, mut api) = routes().split_for_parts();
    api.info.version = ctx.version.clone();
    let docs = docs::router(completed(&api));
    let rules = QueryRules::of(&api);
    let server = ServerContext::new(ctx.clone());
    let mut core = router
        .with_state(ctx.clone())
        .layer(from_fn_with_state(rules, query_rules::refuse_unknown))
        .merge(docs)
        .merge(devices::pages());
    // From the last to the first, so that the first one's layer is the outermost.
    for extension in ctx.extensions.iter().rev() {
        core = extension.middleware(&server, core);
    }
    for extension in &ctx.extensions {
        core = core.merge(extension.routes(&server));
    }
    core.fallback(fallbacks::no_such_route)
        .method_not_allowed_fallback(fallbacks::no_such_method)
        .layer(from_fn_with_state(ctx, request::secure_headers))
        .layer(from_fn(request::envelop))
}

/// The generated description with all that annotations cannot say.
fn completed(api: &utoipa::openapi::OpenApi) -> serde_json::Value {
    // The description is a tree of texts of ours: it always serialises.
    description::complete(serde_json::to_value(api).expect("the API description is plain data"))
}

/// The API description as /openapi.yaml serves it, but for the version.
pub fn completed_description() -> serde_json::Value {
    completed(&description())
}

/// The API description as the annotations on handlers give it.
pub fn description() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(capsules::create, capsules::list))
        .routes(routes!(usage::stats))
        .routes(routes!(usage::usage))
        .routes(routes!(capsules::get, capsules::delete))
        .routes(routes!(usage::metrics))
        .routes(routes!(events::watch))
        .routes(routes!(capsules::ping))
        .routes(routes!(capsules::console))
        .routes(routes!(lifecycle::pause))
        .routes(routes!(lifecycle::resume))
        .routes(routes!(lifecycle::fork))
        .routes(routes!(exec::exec))
        .routes(routes!(streams::exec::exec_stream))
        .routes(routes!(streams::attach::process_stream))
        .routes(routes!(streams::terminal::pty))
        .routes(routes!(ports::tunnel))
        .routes(routes!(processes::list))
        .routes(routes!(processes::kill))
        .routes(routes!(uploads::write))
        .routes(routes!(uploads::stream_write))
        .routes(routes!(files::read))
        .routes(routes!(files::stream_read))
        .routes(routes!(files::list))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::remove))
        .routes(routes!(auth::sign_up))
        .routes(routes!(auth::activate))
        .routes(routes!(auth::log_in))
        .routes(routes!(auth::switch_team))
        .routes(routes!(auth::log_out))
        .routes(routes!(auth::log_out_all))
        .routes(routes!(oauth::start))
        .routes(routes!(oauth::callback))
        .routes(routes!(oauth::connect))
        .routes(routes!(oauth::disconnect))
        .routes(routes!(devices::start))
        .routes(routes!(devices::ask))
        .routes(routes!(devices::inspect))
        .routes(routes!(devices::approve))
        .routes(routes!(me::who_am_i))
        .routes(routes!(me::get, me::rename, me::delete))
        .routes(routes!(me::change_password))
        .routes(routes!(me::ask_reset))
        .routes(routes!(me::confirm_reset))
        .routes(routes!(me::list_sessions))
        .routes(routes!(me::end_session))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::search_users))
        .routes(routes!(notification_channels::create, notification_channels::list))
        .routes(routes!(notification_channels::test))
        .routes(routes!(notification_channels::get, notification_channels::update, notification_channels::delete))
        .routes(routes!(notification_channels::configure))
        .routes(routes!(teams::list, teams::create))
        .routes(routes!(teams::get, teams::rename, teams::delete))
        .routes(routes!(teams::members, teams::add_member))
        .routes(routes!(teams::change_role, teams::remove_member))
        .routes(routes!(teams::leave))
        .routes(routes!(teams::transfer))
        .routes(routes!(audit::list))
        .routes(routes!(admin::teams))
        .routes(routes!(admin::delete_team))
        .routes(routes!(admin::get_limits, admin::set_limits))
        .routes(routes!(admin::get_default_limits, admin::set_default_limits))
        .routes(routes!(admin::users))
        .routes(routes!(admin::set_active))
        .routes(routes!(admin::set_admin))
        .routes(routes!(admin::capsules))
        .routes(routes!(admin::get_capsule, admin::delete_capsule))
        .routes(routes!(admin::templates))
        .routes(routes!(admin::delete_template))
        .routes(routes!(admin::audit_logs))
        .routes(routes!(events::watch_all))
        .routes(routes!(admin::dead_letters))
        .routes(routes!(admin::retry_dead_letter))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::delete))
        .routes(routes!(meta::health))
}
