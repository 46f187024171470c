//! The API description as a contract: what annotations on handlers cannot say is added here, the same way for every operation.
//!
//! Owns: operation ids, descriptions of answers, error codes of each operation, headers, examples, patterns, closed sets, and the
//! OpenAPI 3.0 form. Must never: know how an operation works.

mod downgrade;
mod operations;
mod responses;
mod schemas;

use serde_json::{Map, Value, json};

pub use downgrade::to_openapi_3_0;
use operations::{OPERATIONS, Operation};

/// Members of a path item that are operations.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Operations this module knows.
pub const OPERATIONS_COUNT: usize = OPERATIONS.len();

/// Completes a generated description. Operations that are not known by name (a distribution's own) keep what they have.
pub fn complete(mut api: Value) -> Value {
    api["servers"] = json!([{"url": "/", "description": "This server"}]);
    api["info"]["contact"] = json!({"name": "Whoever runs this installation"});
    api["info"]["license"] = json!({"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0.html"});
    schemas::complete(&mut api);
    api["components"]["headers"] = responses::headers();
    if let Some(paths) = api.get_mut("paths").and_then(Value::as_object_mut) {
        for (path, item) in paths {
            for method in METHODS {
                if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
                    complete_operation(operation, method, path);
                }
            }
        }
    }
    api
}

/// Operations of a completed description that this module does not know: they lack an id and error codes.
pub fn unknown_operations(api: &Value) -> Vec<String> {
    let paths = api["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, item)| {
        let methods = METHODS.into_iter().filter(|method| item.get(method).is_some());
        methods.filter(|method| find(method, path).is_none()).map(move |method| format!("{method} {path}"))
    });
    all.collect()
}

fn find(method: &str, path: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|known| known.method == method && known.path == path)
}

fn complete_operation(operation: &mut Map<String, Value>, method: &str, path: &str) {
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        complete_parameter(parameter, path);
    }
    if !operation.contains_key("description")
        && let Some(summary) = operation.get("summary").and_then(Value::as_str)
    {
        let text = format!("{}.", summary.trim_end_matches(['.', '?']));
        operation.insert("description".to_owned(), Value::String(text));
    }
    if let Some(known) = find(method, path) {
        operation.insert("operationId".to_owned(), Value::String(known.id.to_owned()));
        responses::complete(operation, known);
    }
    // Without this a description that names no security means "whatever is said at the top".
    operation.entry("security").or_insert_with(|| json!([]));
}

/// Parameters that are no part of the path stand in the query; ids say what they look like.
fn complete_parameter(parameter: &mut Value, path: &str) {
    let Some(name) = parameter["name"].as_str().map(str::to_owned) else { return };
    if parameter["in"] == "path" && !path.contains(&format!("{{{name}}}")) {
        parameter["in"] = json!("query");
        parameter["required"] = json!(false);
        // Leaving it out says that it is not wanted; null cannot be written into a query.
        schemas::without_null(&mut parameter["schema"]);
    }
    if parameter.get("description").is_none() {
        parameter["description"] = json!(format!("The parameter {name}."));
    }
    let schema = match (name.as_str(), path) {
        ("id", path) if path.contains("/capsules/") => schemas::id("cl-"),
        ("id", path) if path.contains("/channels/") => schemas::id("ch-"),
        ("id", path) if path.contains("/teams/") => schemas::id("team-"),
        ("id", path) if path.contains("/users/") => schemas::id("usr-"),
        ("id", path) if path.contains("/api-keys/") => schemas::id("key-"),
        ("uid", _) => schemas::id("usr-"),
        ("team_id", _) => schemas::id("team-"),
        ("last_event_id", _) => schemas::id("evt-"),
        ("name", path) if path.contains("{name}") => schemas::template_name(),
        ("port", _) => json!({"type": "integer", "minimum": 1, "maximum": 65535}),
        ("limit", _) => json!({"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
        ("page", _) => json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1}),
        ("range", path) if path.ends_with("/metrics") => {
            json!({"type": "string", "enum": ["5m", "10m", "1h", "2h", "6h", "12h", "24h"], "default": "10m"})
        }
        ("range", _) => json!({"type": "string", "enum": ["5m", "1h", "6h", "24h", "30d"], "default": "1h"}),
        ("from" | "to", _) => json!({"type": "string", "format": "date"}),
        ("intent", _) => json!({"type": "string", "enum": ["login", "signup"], "default": "login"}),
        _ => return,
    };
    parameter["schema"] = schema;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_id_is_one_and_a_verb_with_a_noun() {
        let ids: BTreeSet<_> = OPERATIONS.iter().map(|known| known.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len(), "two operations share an id");
        let is_plain = |id: &str| id.contains('_') && id.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(ids.iter().all(|id| is_plain(id)), "{ids:?}");
    }
}
