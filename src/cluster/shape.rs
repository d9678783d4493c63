//! A status in the shape that is installed: everything that could be said, cut to the schema.
//!
//! Published definitions of VariantAutoscaling differ in which fields their status has and which of them
//! are required. Pure; must not know what the fields mean.

use serde_json::{Map, Value};

/// Cuts `value` to `schema` (OpenAPI, as in a CustomResourceDefinition): unknown fields go, numbers become
/// texts where texts are wanted, and an object that lacks a required field goes as a whole. `None` when
/// nothing is left.
pub fn fit(value: &Value, schema: &Value) -> Option<Value> {
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => object(fields, schema),
        (Some("array"), Value::Array(items)) => {
            let items: Vec<Value> = items.iter().filter_map(|item| fit(item, &schema["items"])).collect();
            Some(items.into())
        }
        (Some("string"), Value::String(text)) => {
            let length = schema["minLength"].as_u64().unwrap_or(0);
            (text.chars().count() as u64 >= length).then(|| value.clone())
        }
        (Some("string"), Value::Number(number)) => Some(number.to_string().into()),
        // One shape has only the time of the last change where others have an object with it.
        (Some("string"), Value::Object(fields)) if schema["format"] == "date-time" => {
            fields.get("updateTime").cloned()
        }
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => Some(value.clone()),
        (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) => Some(value.clone()),
        _ => None,
    }
}

fn object(fields: &Map<String, Value>, schema: &Value) -> Option<Value> {
    let keeps_all = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let mut kept = Map::new();
    for (name, value) in fields {
        match schema["properties"].get(name) {
            Some(schema) => kept.extend(fit(value, schema).map(|value| (name.clone(), value))),
            None if keeps_all => drop(kept.insert(name.clone(), value.clone())),
            None => {}
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let is_whole = required.into_iter().all(|name| kept.contains_key(name));
    (is_whole && !kept.is_empty()).then_some(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_go_and_incomplete_objects_with_them() {
        let schema = json!({"type": "object", "properties": {
            "current": {"type": "object", "required": ["replicas", "load"], "properties": {
                "replicas": {"type": "integer"}, "load": {"type": "string"}}},
            "desired": {"type": "object", "required": ["replicas"], "properties": {
                "replicas": {"type": "integer"}, "accelerator": {"type": "string", "minLength": 2}}},
        }});
        let value = json!({
            "current": {"replicas": 1}, "more": 1,
            "desired": {"replicas": 2, "accelerator": "A", "reason": "because"},
        });
        assert_eq!(fit(&value, &schema), Some(json!({"desired": {"replicas": 2}})));
    }

    #[test]
    fn types_are_those_of_the_schema() {
        let text = json!({"type": "string"});
        assert_eq!(fit(&json!(1.5), &text), Some(json!("1.5")));
        let time = json!({"type": "string", "format": "date-time"});
        assert_eq!(fit(&json!({"updateTime": "t", "reason": "r"}), &time), Some(json!("t")));
        assert_eq!(fit(&json!("1"), &json!({"type": "integer"})), None);
    }
}
