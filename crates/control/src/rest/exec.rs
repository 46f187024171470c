//! `POST /v1/capsules/{id}/exec`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use wrenn_contract::rest::capsules::{Encoding, Exec, ExecResult, ExecStarted};
use wrenn_contract::rest::error::ErrorBody;
use wrenn_domain::failure::Failure;
use wrenn_domain::limits::{
    EXEC_ARG_BYTES_MAX, EXEC_ARGS_MAX, EXEC_ENVS_MAX, EXEC_TIMEOUT_DEFAULT, EXEC_TIMEOUT_MAX, GUEST_PATH_BYTES_MAX,
};
use wrenn_domain::names::ProcessTag;

use super::ApiError;
use super::extract::{Caller, CapsuleId, JsonBody};
use crate::context::Context;
use crate::service::exec::{self, Command, Output};

/// Run a command
///
/// In the foreground: waits, collects at most 16 MiB of output, kills at the time-out, and kills when the caller hangs up. In the background:
/// answers with the pid and the process goes on.
#[utoipa::path(post, path = "/v1/capsules/{id}/exec", tag = "processes", request_body = Exec, security(("api_key" = []), ("session" = [])),
    params(("id" = String, Path, description = "cl- and 25 characters")),
    responses((status = 200, body = ExecResult, description = "Foreground: it ended"),
        (status = 202, body = ExecStarted, description = "Background: it runs"),
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
        let tag = body.tag.as_deref().map_or_else(fresh_tag, str::parse)?;
        let command = command(body.cmd, body.args, body.envs, body.cwd, body.user)?;
        let pid = exec::start(&ctx, &actor, id, command, tag.clone()).await?;
        let started = ExecStarted { sandbox_id: id.to_string(), cmd, pid, tag: tag.as_str().to_owned() };
        return Ok((StatusCode::ACCEPTED, Json(started)).into_response());
    }
    let timeout = timeout(body.timeout_sec)?;
    let stdin = stdin(body.stdin, body.stdin_encoding)?;
    let command = command(body.cmd, body.args, body.envs, body.cwd, body.user)?;
    let output = exec::run(&ctx, &actor, id, command, stdin, timeout).await?;
    Ok(Json(result(id.to_string(), cmd, output)).into_response())
}

/// Checks a command's bounds.
pub(super) fn command(
    cmd: String,
    args: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
    user: Option<String>,
) -> Result<Command, Failure> {
    if cmd.is_empty() {
        return Err(Failure::invalid("cmd is required"));
    }
    bounded(Command { cmd, args, envs, cwd, user })
}

/// The same for one that may be empty.
pub(super) fn bounded(Command { cmd, args, envs, cwd, user }: Command) -> Result<Command, Failure> {
    if args.len() > EXEC_ARGS_MAX {
        return Err(Failure::invalid(format!("at most {EXEC_ARGS_MAX} args are taken")));
    }
    if envs.len() > EXEC_ENVS_MAX {
        return Err(Failure::invalid(format!("at most {EXEC_ENVS_MAX} envs are taken")));
    }
    let texts = args.iter().chain(envs.values()).chain(envs.keys()).chain([&cmd]);
    for text in texts.chain(cwd.iter()).chain(user.iter()) {
        if text.len() >= EXEC_ARG_BYTES_MAX {
            return Err(Failure::invalid(format!("cmd, args and envs are below {EXEC_ARG_BYTES_MAX} bytes each")));
        }
        if text.contains('\0') {
            return Err(Failure::invalid("cmd, args, envs, cwd and user contain no NUL character"));
        }
    }
    if let Some(bad) = envs.keys().find(|key| key.is_empty() || key.contains('=')) {
        return Err(Failure::invalid(format!("{bad:?} is no name of an environment variable")));
    }
    if cwd.as_ref().is_some_and(|path| path.len() > GUEST_PATH_BYTES_MAX) {
        return Err(Failure::invalid(format!("cwd is longer than {GUEST_PATH_BYTES_MAX} bytes")));
    }
    let some = |text: &String| !text.is_empty();
    Ok(Command { cmd, args, envs, cwd: cwd.filter(some), user: user.filter(some) })
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

fn fresh_tag() -> Result<ProcessTag, Failure> {
    format!("proc-{:08x}", getrandom::u32().unwrap_or_default()).parse()
}

fn result(sandbox_id: String, cmd: String, output: Output) -> ExecResult {
    let duration_ms = u64::try_from(output.took.as_millis()).unwrap_or(u64::MAX);
    let exit_code = output.exit_code;
    match (String::from_utf8(output.stdout), String::from_utf8(output.stderr)) {
        (Ok(stdout), Ok(stderr)) => {
            ExecResult { sandbox_id, cmd, stdout, stderr, exit_code, duration_ms, encoding: Encoding::Utf8 }
        }
        (stdout, stderr) => {
            let encode = |text: Result<String, std::string::FromUtf8Error>| {
                BASE64.encode(text.map_or_else(std::string::FromUtf8Error::into_bytes, String::into_bytes))
            };
            let (stdout, stderr) = (encode(stdout), encode(stderr));
            ExecResult { sandbox_id, cmd, stdout, stderr, exit_code, duration_ms, encoding: Encoding::Base64 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cmd: &str, args: Vec<String>, envs: &[(&str, &str)]) -> String {
        let envs = envs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        command(cmd.to_owned(), args, envs, None, None).expect_err("accepted").message
    }

    #[test]
    fn a_command_keeps_its_bounds() {
        assert!(refused("", vec![], &[]).contains("required"));
        assert!(refused("a", vec![String::new(); EXEC_ARGS_MAX + 1], &[]).contains("args"));
        assert!(refused("a", vec!["x".repeat(EXEC_ARG_BYTES_MAX)], &[]).contains("bytes"));
        assert!(refused("a\0b", vec![], &[]).contains("NUL"));
        assert!(refused("a", vec![], &[("A=B", "c")]).contains("environment"));
        assert!(refused("a", vec![], &[("", "c")]).contains("environment"));
    }

    #[test]
    fn a_time_out_keeps_its_bounds() {
        for bad in [-1, 0, 3601, i64::MAX] {
            assert!(timeout(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(timeout(Some(3600)), Ok(EXEC_TIMEOUT_MAX));
        assert_eq!(timeout(None), Ok(EXEC_TIMEOUT_DEFAULT));
    }
}
