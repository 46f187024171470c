//! `/v1/auth/device` and the page `/device`: logins of programs without a browser.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::OnceCell;
use wrenn_contract::rest::auth::{
    ApproveDevice, AskDevice, BeginDevice, DeviceAnswer, DeviceBegun, DeviceClient, DeviceStatus,
};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::limits::{DEVICE_AGE_MAX, DEVICE_POLL_EVERY};

use super::extract::{From, JsonBody};
use super::render::private;
use super::static_file::StaticFile;
use crate::answer::ApiError;
use crate::auth::session::middleware::{RequireSession, is_secure};
use crate::context::Context;
use crate::service::devices;

const PAGE: &str = include_str!("device.html");
const SCRIPT: &str = include_str!("device.js");
const STYLE: &str = include_str!("device.css");
/// The page runs its own script, talks to this server, and stands in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Begin the login of a device
#[utoipa::path(post, path = "/v1/auth/device", tag = "accounts", request_body = BeginDevice,
    responses((status = 201, body = DeviceBegun), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn start(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    head: Parts,
    JsonBody(body): JsonBody<BeginDevice>,
) -> Result<(StatusCode, HeaderMap, Json<DeviceBegun>), ApiError> {
    let begun = devices::begin(&ctx, from, body.client).await?;
    let answer = DeviceBegun {
        device_code: begun.device.reveal(),
        verification_uri: format!("{}/device?code={}", base(&ctx, &head), begun.user_code),
        user_code: begun.user_code,
        expires_in: DEVICE_AGE_MAX.as_secs(),
        interval: DEVICE_POLL_EVERY.as_secs(),
    };
    Ok((StatusCode::CREATED, private(), Json(answer)))
}

/// Ask whether a device was approved
///
/// 202 while nobody did, 200 with a key once, 400 when it is over.
#[utoipa::path(post, path = "/v1/auth/device/token", tag = "accounts", request_body = AskDevice,
    responses((status = 200, body = DeviceAnswer), (status = 202, body = DeviceAnswer), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn ask(
    State(ctx): State<Arc<Context>>,
    From(from): From,
    JsonBody(body): JsonBody<AskDevice>,
) -> Result<(StatusCode, HeaderMap, Json<DeviceAnswer>), ApiError> {
    let (status, answer) = match devices::ask(&ctx, from, &body.device_code).await? {
        None => {
            let waiting =
                DeviceAnswer { status: DeviceStatus::Pending, api_key: None, team_id: None, expires_at: None };
            (StatusCode::ACCEPTED, waiting)
        }
        Some((key, secret)) => {
            let approved = DeviceAnswer {
                status: DeviceStatus::Approved,
                api_key: Some(secret.reveal()),
                team_id: Some(key.team.to_string()),
                expires_at: key.expires_at,
            };
            (StatusCode::OK, approved)
        }
    };
    Ok((status, private(), Json(answer)))
}

/// See which device waits under a code
#[utoipa::path(post, path = "/v1/auth/device/look", tag = "accounts", request_body = ApproveDevice, security(("session" = [])),
    responses((status = 200, body = DeviceClient), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn inspect(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    JsonBody(body): JsonBody<ApproveDevice>,
) -> Result<Json<DeviceClient>, ApiError> {
    Ok(Json(DeviceClient { client: devices::find(&ctx, &user.person(), &body.user_code).await? }))
}

/// Let a device in
///
/// It gets a key that speaks for the caller in the team the session works in, for 90 days.
#[utoipa::path(post, path = "/v1/auth/device/approve", tag = "accounts", request_body = ApproveDevice, security(("session" = [])),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn approve(
    State(ctx): State<Arc<Context>>,
    RequireSession(user): RequireSession,
    JsonBody(body): JsonBody<ApproveDevice>,
) -> Result<StatusCode, ApiError> {
    devices::approve(&ctx, &user.person(), &body.user_code).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The page on which a person approves.
pub(super) fn pages() -> Router {
    Router::new()
        .route("/device", page("text/html; charset=utf-8", PAGE))
        .route("/device/app.js", page("text/javascript; charset=utf-8", SCRIPT))
        .route("/device/app.css", page("text/css; charset=utf-8", STYLE))
}

fn page(kind: &'static str, text: &'static str) -> MethodRouter {
    let prepared: Arc<OnceCell<StaticFile>> = Arc::default();
    get(async move |headers: HeaderMap| {
        let file = prepared.get_or_init(|| StaticFile::new(kind, "no-cache", Bytes::from_static(text.as_bytes())));
        let mut response = file.await.answer(&headers);
        for (name, value) in
            [(CONTENT_SECURITY_POLICY, POLICY), (X_FRAME_OPTIONS, "DENY"), (REFERRER_POLICY, "no-referrer")]
        {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    })
}

/// How the asking program reached us, unless the settings know better.
fn base(ctx: &Context, head: &Parts) -> String {
    if let Some(url) = &ctx.config.accounts.public_url {
        return url.clone();
    }
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost:8000");
    let scheme = if is_secure(head, ctx) { "https" } else { "http" };
    format!("{scheme}://{host}")
}
