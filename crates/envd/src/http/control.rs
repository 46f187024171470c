//! Control routes: health, init, snapshot preparation.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use wrenn_contract::guest::{Health, Init, InitDone, TOKEN_HEADER};
use wrenn_domain::limits::JSON_BODY_BYTES_MAX;
use zeroize::Zeroizing;

use super::reply::Reply;
use crate::init::{self, InitError};
use crate::server::Envd;

/// `GET /health`.
pub async fn health() -> Json<Health> {
    Json(Health { version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// `POST /init`.
pub async fn init(State(envd): State<Arc<Envd>>, headers: HeaderMap, body: Body) -> Result<Json<InitDone>, Reply> {
    let body = to_bytes(body, JSON_BODY_BYTES_MAX)
        .await
        .map_err(|_| Reply::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or was cut off"))?;
    let wish: Init = match body.is_empty() {
        true => Init::default(),
        false => {
            serde_json::from_slice(&body).map_err(|error| Reply::bad_request(format!("not a valid init: {error}")))?
        }
    };
    let token = headers.get(TOKEN_HEADER).map(|value| Zeroizing::new(value.as_bytes().to_vec()));
    let turn = envd.init_turn.lock().await;
    let anew = envd.identity.is_new_life(wish.lifecycle_id.as_deref());
    let quick = init::is_quick(&envd.identity, &wish);
    let worker = envd.clone();
    let apply =
        move || init::apply(&worker.identity, &worker.system, token.as_ref().map(|token| token.as_slice()), &wish);
    let done = if quick { Ok(apply()) } else { tokio::task::spawn_blocking(apply).await };
    drop(turn);
    let done = done.map_err(|error| Reply::internal(format!("init did not finish: {error}")))?;
    envd.told.cancel();
    if done.is_ok() {
        envd.processes.lives.go_on(anew);
        if anew {
            envd.tunnels.begin_anew();
        }
    }
    done.map(Json).map_err(|error| match error {
        InitError::Unauthorized => Reply::new(StatusCode::UNAUTHORIZED, error.to_string()),
        InitError::Invalid(message) => Reply::bad_request(message),
        InitError::Step { step, source } => {
            let cause = source.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::error!(step, %source, cause, "init failed");
            Reply::internal(format!("{step} failed: {source}{cause}"))
        }
    })
}

/// `POST /snapshot/prepare`.
pub async fn snapshot_prepare(State(envd): State<Arc<Envd>>) -> Result<StatusCode, Reply> {
    envd.processes.lives.suspend();
    let system = envd.system;
    tokio::task::spawn_blocking(move || system.settle_disk())
        .await
        .map_err(|error| Reply::internal(format!("settling the disk did not finish: {error}")))?;
    Ok(StatusCode::NO_CONTENT)
}
