//! Control routes: health, init, snapshot preparation.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use wrenn_contract::guest::{FreezeQuery, Frozen, Health, Init, InitDone, TOKEN_HEADER};
use wrenn_domain::limits::JSON_BODY_BYTES_MAX;
use zeroize::Zeroizing;

use super::reply::Reply;
use crate::init::{self, InitError};
use crate::state::Envd;

/// `GET /health`.
pub async fn health() -> Json<Health> {
    Json(Health { version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// `POST /init`.
///
/// # Errors
/// The request is malformed or unauthorised, or a fact could not be applied.
pub async fn init(State(envd): State<Arc<Envd>>, headers: HeaderMap, body: Body) -> Result<Json<InitDone>, Reply> {
    let body = to_bytes(body, JSON_BODY_BYTES_MAX)
        .await
        .map_err(|_| Reply::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or was cut off"))?;
    let init: Init = match body.is_empty() {
        true => Init::default(),
        false => {
            serde_json::from_slice(&body).map_err(|error| Reply::bad_request(format!("not a valid init: {error}")))?
        }
    };
    let token = headers.get(TOKEN_HEADER).map(|value| Zeroizing::new(value.as_bytes().to_vec()));
    let turn = envd.init_turn.lock().await;
    let anew = envd.identity.is_new_life(init.lifecycle_id.as_deref());
    let release = init.release;
    // The same sandbox in a new life: it was paused. A copy keeps what runs, which is why it was made.
    let resumed = anew && envd.identity.has_names(&init);
    let quick = init::is_quick(&envd.identity, &init);
    let worker = envd.clone();
    let apply =
        move || init::apply(&worker.identity, &worker.system, token.as_ref().map(|token| token.as_slice()), &init);
    let done = if quick { Ok(apply()) } else { tokio::task::spawn_blocking(apply).await };
    let done = done.map_err(|error| Reply::internal(format!("init did not finish: {error}")))?;
    envd.initialised.cancel();
    if done.is_ok() {
        if resumed {
            envd.processes.kill_owned();
        }
        // Last of all: what runs from here on finds everything in its place.
        let released = match (anew, release) {
            (true, _) => envd.freezer.release_all(),
            (false, Some(number)) => envd.freezer.release(number),
            (false, None) => Ok(()),
        };
        released.map_err(|error| Reply::internal(format!("processes could not be released: {error}")))?;
        envd.processes.lives.go_on(anew);
        if anew {
            envd.tunnels.begin_anew();
        }
    }
    drop(turn);
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
///
/// # Errors
/// The file systems could not be synced.
pub async fn snapshot_prepare(State(envd): State<Arc<Envd>>) -> Result<StatusCode, Reply> {
    envd.processes.lives.suspend();
    let worker = envd.clone();
    tokio::task::spawn_blocking(move || {
        worker.freezer.gather();
        worker.system.settle_disk();
    })
    .await
    .map_err(|error| Reply::internal(format!("settling the disk did not finish: {error}")))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /snapshot/freeze`.
///
/// # Errors
/// The processes did not stand still in time.
pub async fn snapshot_freeze(
    State(envd): State<Arc<Envd>>,
    query: Result<Query<FreezeQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Frozen>, Reply> {
    let Query(FreezeQuery { number }) = query.map_err(|error| Reply::bad_request(error.body_text()))?;
    let _turn = envd.init_turn.lock().await;
    envd.processes.lives.suspend();
    // Not on a thread of its own: the files are the kernel's memory, and a freeze that waits behind slow work could outlast its release.
    envd.freezer.freeze(number).map_err(|error| Reply::new(StatusCode::CONFLICT, error.to_string()))?;
    let late = envd.freezer.late().await;
    if !late.is_empty() {
        tracing::warn!(?late, "processes did not stop in time");
    }
    Ok(Json(Frozen { number, late }))
}
