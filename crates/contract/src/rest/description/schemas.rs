//! Schemas: patterns of ids, closed sets, bounds, examples. Annotations say the types, this says which values they take.

use serde_json::{Value, json};
use wrenn_domain::account::{PersonName, TeamName};
use wrenn_domain::event::{ActorType, EventType, Outcome};
use wrenn_domain::limits::{
    DISK_MIB_MAX, EMAIL_BYTES_MAX, FORK_CHILDREN_MAX, MEMORY_MIB_MAX, MEMORY_MIB_MIN, PASSWORD_BYTES_MAX,
    PASSWORD_CHARS_MIN, PERSON_NAME_CHARS_MAX, TEAM_NAME_CHARS_MAX, TIMEOUT_SEC_MAX, VCPUS_MAX,
};
use wrenn_domain::notification_channel::Provider;

/// Schema of an id with this prefix.
pub(super) fn id(prefix: &str) -> Value {
    json!({"type": "string", "pattern": format!("^{prefix}[0-9a-z]{{25}}$"), "examples": [format!("{prefix}{}", "0".repeat(25))]})
}

/// Schema of a template's name.
pub(super) fn template_name() -> Value {
    json!({"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$", "examples": ["minimal"]})
}

/// Takes null out of a schema's types.
pub(super) fn without_null(schema: &mut Value) {
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            schema["type"] = only.clone();
        }
    }
    if let Some(forms) = schema.get("oneOf").and_then(Value::as_array) {
        let real: Vec<Value> = forms.iter().filter(|form| form["type"] != "null").cloned().collect();
        if let [only] = real.as_slice() {
            *schema = only.clone();
        }
    }
}

fn closed(words: impl IntoIterator<Item = &'static str>, description: &str) -> Value {
    let words: Vec<&str> = words.into_iter().collect();
    json!({"type": "string", "enum": words, "description": description})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Completes all schemas of a description.
pub(super) fn complete(api: &mut Value) {
    let schemas = &mut api["components"]["schemas"];
    if !schemas.is_object() {
        return;
    }
    name_variants(schemas);
    for (name, schema) in sets() {
        schemas[name] = schema;
    }
    for (names, property, patch) in patches() {
        for name in names {
            apply(&mut schemas[*name], property, &patch);
        }
    }
    for (name, example) in examples() {
        if let Some(schema) = schemas.get_mut(name) {
            schema["examples"] = json!([example]);
        }
    }
    for (name, schema) in schemas.as_object_mut().into_iter().flatten() {
        if schema.get("description").is_none() && schema.get("$ref").is_none() {
            schema["description"] = json!(format!("{name}."));
        }
    }
}

/// Gives each variant of a tagged union a schema of its own, so that clients get a type with a name for it.
fn name_variants(schemas: &mut Value) {
    let Some(all) = schemas.as_object_mut() else { return };
    let mut named = Vec::new();
    for (name, schema) in all.iter_mut() {
        let Some(forms) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else { continue };
        let mut mapping = serde_json::Map::new();
        for form in forms.iter_mut() {
            let Some(tag) = form["properties"]["type"]["enum"][0].as_str().map(str::to_owned) else { continue };
            let variant = format!("{name}{}", camel(&tag));
            mapping.insert(tag, json!(format!("#/components/schemas/{variant}")));
            named.push((variant.clone(), std::mem::replace(form, reference(&variant))));
        }
        if !mapping.is_empty() {
            schema["discriminator"] = json!({"propertyName": "type", "mapping": mapping});
        }
    }
    all.extend(named);
}

fn camel(word: &str) -> String {
    let part =
        |part: &str| part.chars().take(1).flat_map(char::to_uppercase).chain(part.chars().skip(1)).collect::<String>();
    word.split('_').map(part).collect()
}

/// Lays a patch over one property, also where the schema is composed of others. Properties that may be null stay so.
fn apply(schema: &mut Value, property: &str, patch: &Value) {
    for part in schema.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten() {
        apply(part, property, patch);
    }
    let Some(found) = schema.get_mut("properties").and_then(|all| all.get_mut(property)) else { return };
    let may_be_null = found["type"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "null"));
    let description = found.get("description").cloned();
    if found["type"] == "array" {
        found["items"] = patch.clone();
        return;
    }
    if patch.get("$ref").is_some() {
        *found = if may_be_null { json!({"oneOf": [{"type": "null"}, patch]}) } else { patch.clone() };
    } else {
        for (key, value) in patch.as_object().into_iter().flatten() {
            if !(key == "type" && may_be_null) {
                found[key] = value.clone();
            }
        }
    }
    if let Some(description) = description {
        found["description"] = description;
    }
}

/// Closed sets of words, as schemas of their own.
fn sets() -> Vec<(&'static str, Value)> {
    vec![
        ("Provider", closed(Provider::ALL.iter().map(|word| word.as_str()), "Kind of a notification channel.")),
        ("EventType", closed(EventType::ALL.iter().map(|word| word.as_str()), "Type of an event.")),
        ("Outcome", closed(Outcome::ALL.iter().map(|word| word.as_str()), "How an operation ended.")),
        ("ActorType", closed(ActorType::ALL.iter().map(|word| word.as_str()), "Kind of an actor.")),
        ("ResourceType", closed(["sandbox", "snapshot", "host"], "Kind of the resource an event is about.")),
        ("UserStatus", closed(["inactive", "active", "disabled", "deleted"], "State of an account.")),
        ("AuditScope", closed(["team", "admin"], "Readers of an audit row: all members, or owners and admins only.")),
        ("AuditStatus", closed(["success", "info", "warning", "error"], "Weight of an audit row.")),
        ("HealthStatus", closed(["ok", "down"], "State of a part of the server.")),
        ("MetricsRange", closed(["5m", "10m", "1h", "2h", "6h", "12h", "24h"], "Span of metrics.")),
        ("StatsRange", closed(["5m", "1h", "6h", "24h", "30d"], "Span of statistics.")),
    ]
}

/// Properties and what their values look like.
#[rustfmt::skip]
fn patches() -> Vec<(&'static [&'static str], &'static str, Value)> {
    let email = json!({"type": "string", "format": "email", "maxLength": EMAIL_BYTES_MAX});
    let text = |max: usize| json!({"type": "string", "minLength": 1, "maxLength": max});
    let password = json!({"type": "string", "format": "password", "minLength": PASSWORD_CHARS_MIN, "maxLength": PASSWORD_BYTES_MAX});
    let number = |min: i64, max: u32| json!({"minimum": min, "maximum": max});
    let team: &[&str] = &["AdminCapsule", "AdminTemplate", "ApiKey", "Channel", "CreateKey", "DeadLetter", "DeviceAnswer", "EventFrame",
        "Me", "Session", "SwitchTeam", "WhoAmI"];
    let user: &[&str] = &["FoundUser", "Me", "Member", "Session", "TransferTeam", "WhoAmI"];
    vec![
        (&["Capsule", "AdminCapsule"], "id", id("cl-")), (&["CapsuleMetrics", "CreateSnapshot", "ExecResult", "ExecStarted"], "sandbox_id", id("cl-")),
        (&["Team", "AdminTeam"], "id", id("team-")), (team, "team_id", id("team-")),
        (&["AdminUser"], "id", id("usr-")), (user, "user_id", id("usr-")), (&["ApiKey"], "created_by", id("usr-")),
        (&["Channel"], "id", id("ch-")), (&["ApiKey"], "id", id("key-")), (&["WhoAmI"], "key_id", id("key-")),
        (&["AuditEntry"], "id", id("log-")), (&["DeadLetter", "RetryDeadLetter"], "event_id", id("evt-")), (&["EventFrame"], "id", id("evt-")),
        (&["ErrorDetail"], "request_id", json!({"pattern": "^req_[0-9a-f]{16}$", "examples": ["req_0123456789abcdef"]})),
        (&["Capsule", "AdminCapsule", "CreateCapsule"], "template", template_name()),
        (&["Template", "AdminTemplate", "CreateSnapshot"], "name", template_name()),
        (&["CreateCapsule"], "vcpus", number(1, VCPUS_MAX)), (&["CreateCapsule"], "memory_mb", number(MEMORY_MIB_MIN.into(), MEMORY_MIB_MAX)),
        (&["CreateCapsule"], "disk_size_mb", number(64, DISK_MIB_MAX)),
        (&["CreateCapsule", "ResumeCapsule"], "timeout_sec", json!({"maximum": TIMEOUT_SEC_MAX})),
        (&["ForkCapsule"], "count", number(1, FORK_CHILDREN_MAX)),
        (&["CreateChannel", "TestChannel", "Channel"], "provider", reference("Provider")),
        (&["CreateChannel", "UpdateChannel", "Channel"], "events", reference("EventType")),
        (&["DeadLetter"], "event", reference("EventType")), (&["DeadLetter", "EventFrame"], "outcome", reference("Outcome")),
        (&["AuditEntry"], "actor_type", reference("ActorType")), (&["EventActor"], "type", reference("ActorType")),
        (&["EventResource"], "type", reference("ResourceType")), (&["AdminUser"], "status", reference("UserStatus")),
        (&["AuditEntry"], "scope", reference("AuditScope")), (&["AuditEntry"], "status", reference("AuditStatus")),
        (&["HealthBody"], "status", reference("HealthStatus")), (&["HealthParts"], "postgres", reference("HealthStatus")),
        (&["HealthParts"], "redis", reference("HealthStatus")), (&["TestedChannel"], "status", json!({"enum": ["ok"]})),
        (&["CapsuleMetrics"], "range", reference("MetricsRange")), (&["CapsuleStats"], "range", reference("StatsRange")),
        (&["AddMember", "AdminUser", "AskReset", "FoundUser", "Login", "Me", "Member", "Session", "SignUp"], "email", email),
        (&["SignUp"], "password", password.clone()), (&["ChangePassword", "ConfirmReset"], "new_password", password),
        (&["SignUp", "RenameMe"], "name", text(PERSON_NAME_CHARS_MAX)), (&["NameTeam"], "name", text(TEAM_NAME_CHARS_MAX)),
        (&["ApproveDevice", "DeviceBegun"], "user_code", json!({"examples": ["BCDF-GHJK"]})),
    ]
}

/// Examples of bodies.
fn examples() -> Vec<(&'static str, Value)> {
    let zero = |prefix: &str| format!("{prefix}{}", "0".repeat(25));
    // Parsed, so that an example can never be a name that is refused.
    let person = "Ann".parse::<PersonName>().map(|name| name.to_string()).unwrap_or_default();
    let team = "Acme, Inc.".parse::<TeamName>().map(|name| name.to_string()).unwrap_or_default();
    vec![
        ("CreateCapsule", json!({"template": "minimal", "vcpus": 1, "memory_mb": 512, "timeout_sec": 600})),
        ("ResumeCapsule", json!({"timeout_sec": 600})),
        ("ForkCapsule", json!({"count": 2})),
        ("Exec", json!({"cmd": "echo", "args": ["hello"]})),
        ("CreateSnapshot", json!({"sandbox_id": zero("cl-"), "name": "mine"})),
        ("FilePath", json!({"path": "/tmp/hello.txt"})),
        ("ListFiles", json!({"path": "/tmp"})),
        ("CreateKey", json!({"name": "ci"})),
        (
            "CreateChannel",
            json!({"name": "ops", "provider": "webhook", "config": {"url": "https://example.com/hook"}, "events": ["capsule.create"]}),
        ),
        ("TestChannel", json!({"provider": "webhook", "config": {"url": "https://example.com/hook"}})),
        ("UpdateChannel", json!({"name": "ops", "events": ["capsule.create"]})),
        ("SignUp", json!({"email": "ann@example.com", "password": "correct horse", "name": person})),
        ("Login", json!({"email": "ann@example.com", "password": "correct horse"})),
        ("NameTeam", json!({"name": team})),
        ("AddMember", json!({"email": "bob@example.com"})),
        ("ChangeRole", json!({"role": "admin"})),
        ("SwitchTeam", json!({"team_id": zero("team-")})),
        ("TransferTeam", json!({"user_id": zero("usr-")})),
        (
            "ErrorBody",
            json!({"error": {"code": wrenn_domain::ErrorCode::NotFound, "message": "there is no such capsule", "request_id": "req_0123456789abcdef"}}),
        ),
    ]
}
