//! Answers: a description for each, error codes by their status, headers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wrenn_domain::ErrorCode;

use super::operations::Operation;

/// Headers that answers name.
pub(super) fn headers() -> Value {
    json!({
        "RequestId": {
            "description": "Id of the request, also in the body of an error and in the server's log.",
            "schema": {"type": "string", "pattern": "^req_[0-9a-f]{16}$"},
        },
        "RetryAfter": {"description": "Seconds after which the request may be sent again.", "schema": {"type": "integer", "minimum": 0}},
        "WwwAuthenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
        "Truncated": {
            "description": "`true` when there are more than the list shows.",
            "schema": {"type": "string", "enum": ["true"]},
        },
    })
}

/// Completes the answers of an operation.
pub(super) fn complete(operation: &mut Map<String, Value>, known: &Operation) {
    let errors = errors(operation, known);
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    responses.remove("4XX");
    responses.remove("5XX");
    for (status, response) in responses.iter_mut() {
        complete_success(response, status);
        name_frames(response, known.id);
        if known.id == "list_capsules" || known.id == "list_all_capsules" {
            response["headers"]["X-Truncated"] = json!({"$ref": "#/components/headers/Truncated"});
        }
    }
    for (status, codes) in errors {
        responses.insert(status.to_string(), error_response(status, &codes));
    }
}

/// Names the text frames of an operation that goes over a WebSocket: no request or answer of OpenAPI does.
fn name_frames(response: &mut Value, id: &str) {
    let (client, server) = match id {
        "stream_exec" => ("ExecClientFrame", "ExecServerFrame"),
        "stream_process" => ("ExecClientFrame", "ExecServerFrame"),
        "open_terminal" => ("PtyClientFrame", "PtyServerFrame"),
        _ => return,
    };
    response["x-client-frames"] = json!({"$ref": format!("#/components/schemas/{client}")});
    response["x-server-frames"] = json!({"$ref": format!("#/components/schemas/{server}")});
}

fn complete_success(response: &mut Value, status: &str) {
    if response["description"].as_str().is_none_or(str::is_empty) {
        response["description"] = json!(match status {
            "101" => "The connection is a WebSocket from here on.",
            "200" => "The result.",
            "201" => "It was created.",
            "202" => "The request was accepted and is carried out.",
            "204" => "It was done; there is nothing to answer.",
            "302" => "The browser goes on to another page.",
            "503" => "The server cannot work now.",
            _ => "The answer.",
        });
    }
    response["headers"]["X-Request-ID"] = json!({"$ref": "#/components/headers/RequestId"});
    for (kind, media) in response.get_mut("content").and_then(Value::as_object_mut).into_iter().flatten() {
        if kind == "application/octet-stream" {
            *media = json!({"schema": {"type": "string", "format": "binary"}});
        }
        if kind == "text/event-stream" {
            // Frames of text; what their data lines hold is EventFrame.
            *media = json!({
                "schema": {"type": "string", "description": "Server-sent events. The data of each is an EventFrame."},
                "x-event-data": {"$ref": "#/components/schemas/EventFrame"},
            });
        }
    }
}

/// Error codes of an operation by status: those that follow from its form, and its own.
fn errors(operation: &Map<String, Value>, known: &Operation) -> BTreeMap<u16, Vec<ErrorCode>> {
    use ErrorCode as E;
    let mut codes: Vec<ErrorCode> = known.codes.iter().flat_map(|group| group.iter().copied()).collect();
    if known.id != "get_health" {
        codes.extend([E::RateLimited, E::InternalError, E::ServiceUnavailable]);
    }
    if operation.contains_key("requestBody") {
        codes.extend([E::InvalidRequest, E::RequestTimeout, E::PayloadTooLarge, E::UnsupportedMediaType]);
    }
    if operation.get("parameters").and_then(Value::as_array).is_some_and(|all| !all.is_empty()) {
        codes.push(E::InvalidRequest);
    }
    if known.path.contains('{') {
        codes.push(E::NotFound);
    }
    let is_guarded = operation.get("security").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if is_guarded {
        // Rights, the token every unsafe call of a session carries, and keys of a team where a person is needed.
        codes.extend([E::Unauthorized, E::Forbidden]);
    }
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in ErrorCode::ALL.iter().copied().filter(|code| codes.contains(code)) {
        by_status.entry(code.status()).or_default().push(code);
    }
    by_status
}

fn error_response(status: u16, codes: &[ErrorCode]) -> Value {
    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let texts: Vec<String> = codes.iter().map(|code| format!("`{code}`: {}", meaning(*code))).collect();
    let mut headers = json!({"X-Request-ID": {"$ref": "#/components/headers/RequestId"}});
    if matches!(status, 429 | 503) {
        headers["Retry-After"] = json!({"$ref": "#/components/headers/RetryAfter"});
    }
    if status == 401 {
        headers["WWW-Authenticate"] = json!({"$ref": "#/components/headers/WwwAuthenticate"});
    }
    json!({
        "description": texts.join(" "),
        "headers": headers,
        "content": {"application/json": {
            "schema": {"$ref": "#/components/schemas/ErrorBody"},
            "example": {"error": {"code": words[0], "message": "Says what to do.", "request_id": "req_0123456789abcdef"}},
        }},
        "x-error-codes": words,
    })
}

/// Sentence for people that says what a code means.
const fn meaning(code: ErrorCode) -> &'static str {
    use ErrorCode as E;
    match code {
        E::InvalidRequest => "the request is malformed or a value is not allowed.",
        E::Unauthorized => "there is no credential, or it is not valid.",
        E::ConcurrentSandboxLimit => "the team runs as many capsules as it may.",
        E::VcpuLimit => "the team's vCPU limit would be passed.",
        E::MemoryLimit => "the team's memory limit would be passed.",
        E::LimitsUnavailable => "the team's limits are not known now.",
        E::UsageUnavailable => "the team's usage is not known now.",
        E::Forbidden => "the caller may see this but not do it.",
        E::NotFound => "it is not there, or another team's.",
        E::MethodNotAllowed => "the path exists, the method does not.",
        E::RequestTimeout => "the body did not arrive in time.",
        E::Conflict => "the name is taken or the state does not allow it.",
        E::InvalidState => "the capsule is not running.",
        E::AlreadyExists => "the directory or name is there already.",
        E::PayloadTooLarge => "the body is larger than this operation takes.",
        E::UnsupportedMediaType => "the body is of a type this operation does not take.",
        E::RangeNotSatisfiable => "the range lies outside the file.",
        E::Unprocessable => "no host could ever hold this.",
        E::RateLimited => "there were too many requests; Retry-After says when to try again.",
        E::InternalError => "a fault of the server; the request id finds it in its log.",
        E::SignupHookFailed => "the account could not be set up; the same call may be tried again.",
        E::NotConfigured => "this installation is not set up for it.",
        E::AgentError => "the host or the guest answered something unexpected.",
        E::HostUnavailable => "the capsule's host cannot be reached now.",
        E::NoHostsAvailable => "no host has room now.",
        E::ServiceUnavailable => "the database cannot be reached now.",
        E::Timeout => "the call took longer than its time-out.",
        E::DiskFull => "the capsule's disk has no room for this.",
    }
}
