//! The JSON Schema of the file, made of its types: what editors complete and check with.
//!
//! JSON Schema 2020-12, of which OpenAPI 3.1 schemas are a dialect; only their references have another place.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::file::File;

const PLACE_IN_OPENAPI: &str = "#/components/schemas/";
const PLACE: &str = "#/$defs/";
const ROOT: &str = "File";

/// The whole schema.
pub fn schema() -> Value {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    File::schemas(&mut parts);
    parts.push((ROOT.to_owned(), File::schema()));
    let mut definitions = Map::new();
    for (name, part) in parts {
        // Made of plain values: it always has JSON.
        if let Ok(mut part) = serde_json::to_value(part) {
            translate(&mut part);
            definitions.insert(name, part);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nebula.toml",
        "$ref": format!("{PLACE}{ROOT}"),
        "required": ["name"],
        "$defs": definitions,
    })
}

/// References to where they are here, and no `null`, which TOML has not.
fn translate(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            without_null(fields);
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                *reference = reference.replace(PLACE_IN_OPENAPI, PLACE);
            }
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            if fields.get("default").is_some_and(Value::is_null) {
                fields.remove("default");
            }
            fields.values_mut().for_each(translate);
        }
        Value::Array(values) => values.iter_mut().for_each(translate),
        _ => {}
    }
}

/// An optional table is `oneOf` it and null: without null it is the table.
fn without_null(fields: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = fields.get_mut("oneOf") else {
        return;
    };
    choices.retain(|choice| choice["type"] != "null");
    let [only] = choices.as_slice() else {
        return;
    };
    if let Value::Object(only) = only.clone() {
        fields.remove("oneOf");
        for (key, value) in only {
            fields.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every field as a person writes it: `http.limits.body`; of lists, `http.rules[].path`.
    fn fields(schema: &Value) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        walk(schema, &schema["$defs"][ROOT], "", &mut found);
        found
    }

    fn walk(schema: &Value, part: &Value, path: &str, found: &mut BTreeSet<(String, String)>) {
        let name = part["$ref"]
            .as_str()
            .and_then(|text| text.strip_prefix(PLACE));
        let part = match name {
            Some(ROOT) => return,
            Some(name) => &schema["$defs"][name],
            None => part,
        };
        assert!(part.is_object(), "{path}: {name:?} is not there");
        if part["items"].is_object() {
            walk(schema, &part["items"], &format!("{path}[]"), found);
        }
        for (key, value) in part["properties"].as_object().into_iter().flatten() {
            let path = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            let description = value["description"].as_str().unwrap_or_default();
            found.insert((path.clone(), description.to_owned()));
            walk(schema, value, &path, found);
        }
    }

    #[test]
    fn every_field_is_described() {
        let schema = schema();
        let fields = fields(&schema);
        let names: BTreeSet<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "name",
            "type",
            "stop_grace",
            "probe.period",
            "resources.memory",
            "isolation.network",
            "strategy.steps",
            "cron.schedule",
            "hooks.pre_release",
            "http.limits.body",
            "http.rules[].path",
            "environments",
        ] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        let silent: Vec<_> = fields.iter().filter(|(_, text)| text.is_empty()).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn it_is_a_json_schema_by_itself() {
        let schema = schema();
        let text = schema.to_string();
        assert!(!text.contains("#/components"), "{text}");
        assert!(!text.contains("\"null\""), "{text}");
        let root = &schema["$defs"][ROOT];
        assert_eq!(root["additionalProperties"], false, "{root}");
        assert_eq!(
            root["required"],
            Value::Null,
            "an environment needs none: {root}"
        );
        assert_eq!(
            root["properties"]["type"]["enum"],
            json!(["static", "service", "worker", "job", "cron"]),
            "{root}"
        );
        assert_eq!(root["properties"]["instances"]["type"], "integer");
    }

    /// The page names each field in the first column of a table, and nothing else there.
    #[test]
    fn the_documentation_names_exactly_the_fields_of_the_schema() {
        let page = include_str!("../../../../docs/nebula-toml.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: BTreeSet<&str> = rows
            .filter_map(|row| Some(row.split_once('`')?.0))
            .collect();
        let schema = schema();
        let fields = fields(&schema);
        let known: BTreeSet<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<_> = known.difference(&told).collect();
        let unknown: Vec<_> = told.difference(&known).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing {missing:?}, unknown {unknown:?}"
        );
    }
}
