//! The OpenAPI 3.0 form of the description, for generators that do not take 3.1.

use serde_json::{Map, Value, json};

/// Rewrites a 3.1 description as 3.0.3. Only what this API uses is known: nullable types, `examples`, references with siblings.
pub fn to_openapi_3_0(mut api: Value) -> Value {
    api["openapi"] = json!("3.0.3");
    rewrite(&mut api);
    api
}

fn rewrite(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(rewrite),
        Value::Object(map) => {
            rewrite_object(map);
            map.values_mut().for_each(rewrite);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn rewrite_object(map: &mut Map<String, Value>) {
    // An array of words is a schema's types; a property that is called `type` is an object.
    if let Some(kinds) = map.get("type").and_then(Value::as_array) {
        let real: Vec<Value> = kinds.iter().filter(|kind| *kind != "null").cloned().collect();
        if real.len() < kinds.len() {
            map.insert("nullable".to_owned(), json!(true));
        }
        if let [only] = real.as_slice() {
            map.insert("type".to_owned(), only.clone());
        }
    }
    for key in ["oneOf", "anyOf"] {
        let Some(forms) = map.get(key).and_then(Value::as_array) else { continue };
        let real: Vec<Value> = forms.iter().filter(|form| form["type"] != "null").cloned().collect();
        if real.len() == forms.len() {
            continue;
        }
        // `nullable` needs a type of its own beside it in 3.0. A property that may be null may also be left out, so nothing is lost.
        match real.as_slice() {
            [_] => {
                map.remove(key);
                map.insert("allOf".to_owned(), Value::Array(real));
            }
            _ => {
                map.insert(key.to_owned(), Value::Array(real));
            }
        }
    }
    if let Some(Value::Array(examples)) = map.get("examples")
        && let Some(first) = examples.first().cloned()
    {
        map.remove("examples");
        map.insert("example".to_owned(), first);
    }
    if let Some(value) = map.remove("const") {
        map.insert("enum".to_owned(), json!([value]));
    }
    map.remove("propertyNames");
    // In 3.0 a reference has no siblings.
    if map.len() > 1 && map.get("$ref").is_some_and(Value::is_string) {
        let reference = map.remove("$ref").unwrap_or_default();
        map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nullable_types_examples_and_references_take_their_old_form() {
        let new = json!({"openapi": "3.1.0", "a": {"type": ["string", "null"], "examples": ["x"]},
            "b": {"oneOf": [{"type": "null"}, {"$ref": "#/c"}]}, "c": {"$ref": "#/c", "description": "d"}, "d": {"const": 1}});
        let old = json!({"openapi": "3.0.3", "a": {"type": "string", "nullable": true, "example": "x"},
            "b": {"allOf": [{"$ref": "#/c"}]}, "c": {"allOf": [{"$ref": "#/c"}], "description": "d"}, "d": {"enum": [1]}});
        assert_eq!(to_openapi_3_0(new), old);
    }
}
