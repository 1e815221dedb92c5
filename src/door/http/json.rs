//! Bodies in JSON. A type says its fields once: serde reads them, schemars describes them, and what is wrong with a body is told by
//! that description.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::{DeserializeOwned, value};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Value, json};
use serde_path_to_error::Segment;
use stageline_base::Fault;
use std::fmt;

/// How the text of an error begins that was written for the client.
const FOR_THE_CLIENT: &str = "for the client: ";

/// An error of a type that is read, in words that the client is to see as they are.
pub(crate) fn wrong<E: Error>(words: impl fmt::Display) -> E {
    E::custom(format_args!("{FOR_THE_CLIENT}{words}"))
}

/// Reads the object that `body` is.
///
/// # Errors
/// `InvalidRequest`: where the JSON is broken, or which field is wrong and what it must be.
pub(crate) fn read<T: DeserializeOwned + JsonSchema>(body: &[u8]) -> Result<T, Fault> {
    // serde would take a list for the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(no_object());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = match error.path().iter().next() {
            Some(Segment::Map { key }) => Some(key.clone()),
            _ => None,
        };
        refusal::<T>(at.as_deref(), &error.into_inner())
    })?;
    json.end().map_err(|error| refusal::<T>(None, &error))?;
    Ok(read)
}

/// What `error` says of the field that it is `at`, to the client.
fn refusal<T: DeserializeOwned + JsonSchema>(at: Option<&str>, error: &serde_json::Error) -> Fault {
    if error.classify() != Category::Data {
        let (line, column) = (error.line(), error.column());
        return Fault::invalid(format!("the body is not valid JSON (line {line}, column {column})"));
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    if let Some(words) = text.strip_prefix(FOR_THE_CLIENT) {
        return Fault::invalid(words);
    }
    let known = names::<T>();
    Fault::invalid(match at {
        Some(name) if !known.contains(&name) => {
            let name: String = name.chars().take(40).collect();
            format!("there is no field `{}`: the fields are {}", name.escape_debug(), known.join(", "))
        }
        Some(name) => format!("`{name}` must be {}", must_be(schema::<T>().pointer(&format!("/properties/{name}")))),
        // Of the whole object serde says two things, each with the name of one of our fields.
        None => match (text.split('`').nth(1), text.starts_with("duplicate field")) {
            (Some(name), true) => format!("the field `{name}` is there twice"),
            (Some(name), false) if text.starts_with("missing field") => format!("the field `{name}` is missing"),
            _ => return no_object(),
        },
    })
}

fn no_object() -> Fault {
    Fault::invalid("the body must be a JSON object, such as {\"prompt\": \"Hello\"}")
}

/// The first name of the object that `body` is for which `wanted`, which is told the name and whether its value is null; `None`
/// also if `body` is no object of JSON.
pub(crate) fn first_name(body: &[u8], wanted: impl Fn(&str, bool) -> bool) -> Option<String> {
    struct Names<F>(F);
    impl<'de, F: Fn(&str, bool) -> bool> Visitor<'de> for Names<F> {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
            let mut first = None;
            while let Some(name) = map.next_key::<String>()? {
                let null = map.next_value::<Option<IgnoredAny>>()?.is_none();
                if first.is_none() && self.0(&name, null) {
                    first = Some(name);
                }
            }
            Ok(first)
        }
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let first = json.deserialize_map(Names(wanted)).ok()?;
    json.end().ok()?;
    first
}

/// The names of the fields of the struct `T`, in their order.
pub(crate) fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asked<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(value::Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, value::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Asked(&mut names));
    names
}

/// How JSON is described here: JSON Schema 2020-12, as in OpenAPI 3.1, with the largest integer of each width.
pub(crate) fn settings() -> SchemaSettings {
    let largest = |schema: &mut Schema| {
        let largest = match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => json!(u32::MAX),
            Some("uint64") => json!(u64::MAX),
            _ => return,
        };
        if schema.get("maximum").is_none() {
            schema.insert("maximum".into(), largest);
        }
    };
    SchemaSettings::draft2020_12().with_transform(RecursiveTransform(largest))
}

/// The description of `T`.
pub(crate) fn schema<T: JsonSchema>() -> Schema {
    settings().into_generator().into_root_schema_for::<T>()
}

/// What a value of this description must be, in words: its title, or what its type says.
pub(crate) fn must_be(described: Option<&Value>) -> String {
    let of = |key: &str| described.and_then(|schema| schema.get(key));
    if let Some(title) = of("title").and_then(Value::as_str) {
        return title.into();
    }
    let kind = of("type").map(|kind| kind.get(0).unwrap_or(kind)).and_then(Value::as_str);
    match (kind, of("minimum"), of("exclusiveMinimum"), of("maximum")) {
        (Some("string"), ..) => "a text".into(),
        (Some("boolean"), ..) => "true or false".into(),
        (Some("integer"), Some(least), _, Some(most)) => format!("an integer from {least} to {most}"),
        (Some("number"), Some(least), _, Some(most)) => format!("a number from {least} to {most}"),
        (Some("number"), _, Some(above), Some(most)) => format!("a number above {above} and up to {most}"),
        (Some("number"), ..) => "a number".into(),
        _ => "of another type".into(),
    }
}

/// A number of `f32` as people write it, for descriptions: 0.01, and not what 0.01 is as `f64`.
pub(crate) fn decimal(number: f32) -> Value {
    serde_json::from_str(&number.to_string()).unwrap_or_else(|_| number.into())
}

/// `body` in JSON, its names in alphabetical order and each `f32` with the digits that it has as `f64`.
pub(crate) fn written(body: &impl Serialize) -> String {
    json!(body).to_string()
}
