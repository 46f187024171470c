//! `POST /v1/capsules/{id}/exec`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use serde_json::{Map, json};
use wrenn_contract::rest::capsules::{Encoding, Exec, ExecKilled, ExecResult, ExecStarted};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::command::Command;
use wrenn_domain::failure::Failure;
use wrenn_domain::limits::{EXEC_TIMEOUT_DEFAULT, EXEC_TIMEOUT_MAX};

use super::extract::{Caller, CapsuleId, JsonBody};
use super::output_text;
use crate::answer::ApiError;
use crate::context::Context;
use crate::random;
use crate::service::exec::{self, Outcome};

/// Run a command
///
/// In the foreground: waits, collects at most 16 MiB of output, kills at the time-out, and kills when the caller hangs up. In the background:
/// answers with the pid and the process goes on.
#[utoipa::path(post, path = "/v1/capsules/{id}/exec", tag = "processes", request_body = Exec, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = ExecResult, description = "Foreground: it ended"),
        (status = 202, body = ExecStarted, description = "Background: it runs"),
        (status = 413, body = ExecKilled, description = "Foreground: it printed too much and was killed; what it had printed"),
        (status = 504, body = ExecKilled, description = "Foreground: it took too long and was killed; what it had printed"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn exec(
    State(ctx): State<Arc<Context>>,
    Caller(actor): Caller,
    CapsuleId(id): CapsuleId,
    JsonBody(body): JsonBody<Exec>,
) -> Result<Response, ApiError> {
    let cmd = body.cmd.clone();
    if body.background {
        if body.stdin.is_some() {
            return Err(ApiError::invalid("a background process takes no stdin; use exec/stream"));
        }
        let tag = body.tag.as_deref().map_or_else(|| random::tag("proc"), str::parse)?;
        let command = Command::parse(body.cmd, body.args, body.envs, body.cwd, body.user)?;
        let pid = exec::start(&ctx, &actor, id, command, tag.clone()).await?;
        let started = ExecStarted { sandbox_id: id.to_string(), cmd, pid, tag: tag.as_str().to_owned() };
        return Ok((StatusCode::ACCEPTED, Json(started)).into_response());
    }
    let timeout = timeout(body.timeout_sec)?;
    let stdin = stdin(body.stdin, body.stdin_encoding)?;
    let command = Command::parse(body.cmd, body.args, body.envs, body.cwd, body.user)?;
    Ok(match exec::run(&ctx, &actor, id, command, stdin, timeout).await? {
        Outcome::Ended(output) => {
            let duration_ms = u64::try_from(output.took.as_millis()).unwrap_or(u64::MAX);
            let head = [
                ("sandbox_id", json!(id.to_string())),
                ("cmd", json!(cmd)),
                ("exit_code", json!(output.exit_code)),
                ("duration_ms", json!(duration_ms)),
            ];
            let head = head.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            output_text::answer(head, None, output.printed)
        }
        Outcome::Killed { why, printed } => ApiError::from(why).into_response_of(|error| {
            let head = Map::from_iter([("error".to_owned(), json!(error))]);
            output_text::answer(head, Some("output"), printed)
        }),
    })
}

fn timeout(seconds: Option<i64>) -> Result<Duration, Failure> {
    let most = EXEC_TIMEOUT_MAX.as_secs();
    match seconds.map(u64::try_from) {
        None => Ok(EXEC_TIMEOUT_DEFAULT),
        Some(Ok(seconds)) if (1..=most).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Some(_) => {
            Err(Failure::invalid(format!("timeout_sec must be between 1 and {most}; use background for longer")))
        }
    }
}

fn stdin(text: Option<String>, encoding: Option<Encoding>) -> Result<Option<Vec<u8>>, Failure> {
    match (text, encoding) {
        (Some(text), Some(Encoding::Base64)) => {
            BASE64.decode(text).map(Some).map_err(|_| Failure::invalid("stdin is not valid base64"))
        }
        (text, _) => Ok(text.map(String::into_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_keeps_its_bounds() {
        for bad in [-1, 0, 3601, i64::MAX] {
            assert!(timeout(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(timeout(Some(3600)), Ok(EXEC_TIMEOUT_MAX));
        assert_eq!(timeout(None), Ok(EXEC_TIMEOUT_DEFAULT));
    }
}
