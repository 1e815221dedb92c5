//! The JSON Schema of flow files, for editors.

use super::keys::{Key, Section, Shape, keys};
use serde_json::{Map, Value as Json, json};

/// The schema (draft 7, which yaml-language-server reads), made of the keys that the reader knows.
pub fn schema() -> Json {
    let mut definitions = Map::new();
    for (section, name, keys) in keys() {
        definitions.insert(name.to_owned(), object(section, &keys));
    }
    let mut schema = definitions.remove("file").unwrap_or_default();
    if let Json::Object(schema) = &mut schema {
        schema.insert("$schema".into(), json!("http://json-schema.org/draft-07/schema#"));
        schema.insert("title".into(), json!("A stack.yml of OpenFaaS with flows, or a flow file of stageline"));
        schema.insert("definitions".into(), Json::Object(definitions));
    }
    schema
}

fn object(section: Section, keys: &[Key]) -> Json {
    let properties: Map<String, Json> = keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let types = match section {
        // A node that says nothing calls the function of its name.
        Section::Node => json!(["object", "null"]),
        _ => json!("object"),
    };
    let mut object = json!({"type": types, "properties": properties, "additionalProperties": section == Section::File});
    if let (Json::Object(object), Section::Hook) = (&mut object, section) {
        object.insert("required".into(), json!(["source", "destination"]));
    }
    object
}

fn property(key: &Key) -> Json {
    let mut words = key.meaning.to_owned();
    if !key.default.is_empty() {
        words.push_str(&format!(" Default: {}.", key.default));
    }
    let mut property = shape(key.shape);
    if let Json::Object(property) = &mut property {
        property.insert("description".into(), json!(words));
    }
    property
}

fn shape(shape: Shape) -> Json {
    let refer = |section: Section| {
        let name = keys().into_iter().find(|(other, ..)| *other == section).map_or("", |(_, name, _)| name);
        json!({"$ref": format!("#/definitions/{name}")})
    };
    let expression = json!({"type": "string", "pattern": r"\{\{[\s\S]*\}\}"});
    let text = json!({"type": "string", "minLength": 1});
    match shape {
        Shape::Any | Shape::Foreign => json!({}),
        Shape::Text => text,
        Shape::Condition => json!({"anyOf": [{"type": "boolean"}, expression]}),
        Shape::Expression => expression,
        Shape::Duration => json!({"anyOf": [{"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^([0-9]+|([0-9]+(us|ms|s|m|h|d))+)$"}]}),
        Shape::Count(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
        Shape::Number(low, high) => json!({"type": "number", "minimum": low, "maximum": high}),
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Words(words) => json!({"enum": words}),
        Shape::Texts => json!({"anyOf": [text, {"type": "array", "items": text}]}),
        Shape::Share => json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 10_000},
            {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*%?$"}]}),
        Shape::Rate => json!({"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*/\s*[smh]\s*$"}),
        Shape::Failures => {
            let one = json!({"anyOf": [{"type": "integer", "minimum": 300, "maximum": 599},
                {"type": "string", "pattern": "^(connect|timeout|[345]xx|[345][0-9][0-9])$"}]});
            json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
        }
        Shape::TextMap => json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
        Shape::In(section) => json!({"allOf": [refer(section)]}),
        Shape::InOr(section, words) => {
            let word = |word: &&str| if *word == "false" { json!(false) } else { json!(word) };
            json!({"anyOf": [{"enum": words.iter().map(word).collect::<Vec<_>>()}, refer(section)]})
        }
        Shape::MapOf(Section::Pipeline) => {
            json!({"type": "object", "additionalProperties": {"anyOf": [text, refer(Section::Pipeline)]}})
        }
        Shape::MapOf(section) => json!({"type": "object", "additionalProperties": refer(section)}),
        Shape::ListOf(section) => json!({"type": "array", "items": refer(section)}),
    }
}
