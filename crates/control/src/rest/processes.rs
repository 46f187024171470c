//! `/v1/capsules/{id}/processes`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use wrenn_contract::proto::process::{ProcessInfo, Signal};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_contract::rest::processes::{Process, ProcessList, SIGNALS};

use super::extract::{Caller, CapsuleId, Params, SelectorText};
use crate::answer::ApiError;
use crate::context::Context;
use crate::service::processes::{self, Selector};

/// List running processes
#[utoipa::path(get, path = "/v1/capsules/{id}/processes", tag = "processes", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = ProcessList), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
) -> Result<Json<ProcessList>, ApiError> {
    let processes = processes::list(&ctx, &actor, id).await?;
    Ok(Json(ProcessList { processes: processes.into_iter().map(process).collect() }))
}

/// Query of the kill route.
#[derive(Deserialize, utoipa::IntoParams)]
pub(super) struct Kill {
    /// SIGKILL (default), SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 or SIGCONT.
    signal: Option<String>,
}

/// Kill a process
///
/// By pid or tag; its whole group gets the signal.
#[utoipa::path(delete, path = "/v1/capsules/{id}/processes/{selector}", tag = "processes", security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters"),
        ("selector" = String, Path, description = "All digits: a pid; else a tag"), Kill),
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn kill(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    SelectorText(text): SelectorText,
    Params(query): Params<Kill>,
) -> Result<StatusCode, ApiError> {
    let signal = match query.signal.as_deref() {
        None | Some("SIGKILL") => Signal::Sigkill,
        Some("SIGTERM") => Signal::Sigterm,
        Some("SIGINT") => Signal::Sigint,
        Some("SIGHUP") => Signal::Sighup,
        Some("SIGQUIT") => Signal::Sigquit,
        Some("SIGUSR1") => Signal::Sigusr1,
        Some("SIGUSR2") => Signal::Sigusr2,
        Some("SIGCONT") => Signal::Sigcont,
        Some(_) => return Err(ApiError::invalid(format!("signal is one of {}", SIGNALS.join(", ")))),
    };
    processes::signal(&ctx, &actor, id, &selector(&text)?, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A process as a path names it.
pub(super) fn selector(text: &str) -> Result<Selector, ApiError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let pid = text.parse().ok().filter(|pid| *pid > 0);
        return pid.map(Selector::Pid).ok_or_else(|| ApiError::invalid("a pid is a number above 0"));
    }
    Ok(Selector::Tag(text.parse()?))
}

fn process(info: ProcessInfo) -> Process {
    let config = info.config.into_option().unwrap_or_default();
    Process { pid: info.pid, tag: info.tag.filter(|tag| !tag.is_empty()), cmd: config.cmd, args: config.args }
}
