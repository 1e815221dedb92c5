//! The JSON body of a request, field by field: what is unknown, of the wrong type or there twice is refused by name.
//!
//! The fields are read straight into their types, so that a body takes about as much memory as it has bytes.

use super::messages::{self, Messages, Tools};
use crate::ChatMessage;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use stageline_base::Fault;
use stageline_base::TokenId;
use stageline_base::limits::{MAX_CHAT_VALUES, MAX_STOP_STRINGS};
use stageline_template::Json;
use std::cell::{Cell, RefCell};
use std::fmt;

/// The fields of a body; `None` where one is absent or null.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Names of those that are not null, in the body's order.
    pub given: Vec<&'static str>,
    pub prompt: Option<String>,
    pub messages: Option<Vec<ChatMessage>>,
    pub tools: Option<Json>,
    pub tokens: Option<Vec<TokenId>>,
    pub input: Option<String>,
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub seed: Option<u64>,
    pub stop: Option<Vec<String>>,
    pub deadline_ms: Option<u64>,
    pub top_logits: Option<u32>,
    pub stream: Option<bool>,
    pub manifest: Option<String>,
}

const A_TEXT: &str = "a text";
const A_COUNT: &str = "an integer from 0 to 4294967295";
const A_NUMBER: &str = "a number";
const AN_INTEGER: &str = "an integer from 0 to 18446744073709551615";

/// Every field with what it must be.
const EXPECTED: [(&str, &str); 16] = [
    ("prompt", A_TEXT),
    ("messages", messages::EXPECTED),
    ("tools", "a list of objects, of at most 100000 values in all"),
    ("tokens", "a list of token ids"),
    ("input", A_TEXT),
    ("max_tokens", A_COUNT),
    ("temperature", A_NUMBER),
    ("top_k", A_COUNT),
    ("top_p", A_NUMBER),
    ("repetition_penalty", A_NUMBER),
    ("seed", AN_INTEGER),
    ("stop", "a text or a list of at most 16 texts"),
    ("deadline_ms", AN_INTEGER),
    ("top_logits", A_COUNT),
    ("stream", "true or false"),
    ("manifest", A_TEXT),
];

/// Reads `body`.
///
/// # Errors
/// `InvalidRequest`: where the JSON is broken, or which field is wrong and what it must be.
pub(super) fn read(body: &[u8]) -> Result<Fields, Fault> {
    let wrong = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json
        .deserialize_map(Reader { wrong: &wrong, left: &Cell::new(MAX_CHAT_VALUES) })
        .and_then(|fields| json.end().map(|()| fields));
    read.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Fault::invalid(match (error.classify(), wrong.take()) {
            (Category::Data, Some(wrong)) => wrong,
            (Category::Data, None) => "the body must be a JSON object, such as {\"prompt\": \"Hello\"}".to_string(),
            _ => format!("the body is not valid JSON (line {line}, column {column})"),
        })
    })
}

/// Whether `body` is a JSON object that has one of our fields, whatever else is in it.
pub(super) fn names_one(body: &[u8]) -> bool {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return false;
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    json.deserialize_map(Names).is_ok_and(|known| known && json.end().is_ok())
}

/// Reads an object; says whether one of its names is a field's.
struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut known = false;
        while let Some(name) = map.next_key::<String>()? {
            known |= EXPECTED.iter().any(|(field, _)| *field == name);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(known)
    }
}

/// Reads the object; says in `wrong` what is wrong with the field that it is at.
struct Reader<'a> {
    wrong: &'a RefCell<Option<String>>,
    /// How many JSON values messages and tools may still have.
    left: &'a Cell<usize>,
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            let Some(&(name, expected)) = EXPECTED.iter().find(|(known, _)| *known == name) else {
                let name: String = name.chars().take(40).collect();
                let known = EXPECTED.map(|(known, _)| known).join(", ");
                let message = format!("there is no field `{}`: the fields are {known}", name.escape_debug());
                return Err(self.fails(message));
            };
            if fields.given.contains(&name) {
                return Err(self.fails(format!("the field `{name}` is there twice")));
            }
            self.wrong.replace(Some(format!("`{name}` must be {expected}")));
            if fields.take(name, &mut map, Messages { left: self.left, wrong: self.wrong })? {
                fields.given.push(name);
            }
            self.wrong.take();
        }
        Ok(fields)
    }
}

impl Reader<'_> {
    fn fails<E: Error>(&self, message: String) -> E {
        self.wrong.replace(Some(message));
        E::custom("refused")
    }
}

impl Fields {
    /// Reads the value of field `name`; says whether it is not null.
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A, chat: Messages<'_>) -> Result<bool, A::Error> {
        fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
            slot: &mut Option<T>,
            map: &mut A,
        ) -> Result<bool, A::Error> {
            *slot = map.next_value()?;
            Ok(slot.is_some())
        }
        match name {
            "prompt" => value(&mut self.prompt, map),
            "messages" => {
                self.messages = map.next_value_seed(chat)?;
                Ok(self.messages.is_some())
            }
            "tools" => {
                self.tools = map.next_value_seed(Tools(chat))?;
                Ok(self.tools.is_some())
            }
            "tokens" => value(&mut self.tokens, map),
            "input" => value(&mut self.input, map),
            "max_tokens" => value(&mut self.max_tokens, map),
            "temperature" => value(&mut self.temperature, map),
            "top_k" => value(&mut self.top_k, map),
            "top_p" => value(&mut self.top_p, map),
            "repetition_penalty" => value(&mut self.repetition_penalty, map),
            "seed" => value(&mut self.seed, map),
            "stop" => {
                let stop: Option<OneOrMore> = map.next_value()?;
                self.stop = stop.map(|stop| stop.0);
                Ok(self.stop.is_some())
            }
            "deadline_ms" => value(&mut self.deadline_ms, map),
            "top_logits" => value(&mut self.top_logits, map),
            "stream" => value(&mut self.stream, map),
            "manifest" => value(&mut self.manifest, map),
            _ => Err(A::Error::custom("a field without a place")),
        }
    }
}

/// A text, or a list of not too many: without the limit, which the reception has too, a list of empty texts would take many
/// times the memory of its body.
struct OneOrMore(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![text.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    if texts.len() == MAX_STOP_STRINGS {
                        return Err(A::Error::custom("too many texts"));
                    }
                    texts.push(text);
                }
                Ok(OneOrMore(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        read(body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn the_documentation_has_every_field() {
        let rows: Vec<&str> =
            include_str!("../../../../docs/http.md").lines().filter(|line| line.starts_with("| `")).collect();
        for (name, _) in EXPECTED {
            assert!(rows.iter().any(|row| row.contains(&format!("`{name}`"))), "{name}");
        }
    }

    #[test]
    fn all_fields_are_read() {
        let fields = read(
            br#" {"prompt": "p\u00e9", "messages": [{"content": "c", "role": "user"}], "tools": [{"b": 1, "a": 2}], "tokens": [1, 4294967295], "input": "",
            "max_tokens": 3, "temperature": 1, "top_k": 0, "top_p": 0.5, "repetition_penalty": 1.25,
            "seed": 18446744073709551615, "stop": ["a", "b"], "deadline_ms": 10, "top_logits": 2, "stream": false, "manifest": "0011aabb"} "#,
        )
        .unwrap();
        assert_eq!(fields.given.as_slice(), EXPECTED.map(|(name, _)| name));
        assert_eq!(fields.prompt.as_deref(), Some("pé"));
        assert_eq!(fields.messages.unwrap(), [ChatMessage::new("user", "c")]);
        assert_eq!(fields.tokens.unwrap(), [1, u32::MAX]);
        assert_eq!((fields.temperature, fields.top_p, fields.repetition_penalty), (Some(1.0), Some(0.5), Some(1.25)));
        assert_eq!((fields.max_tokens, fields.top_k, fields.top_logits), (Some(3), Some(0), Some(2)));
        assert_eq!((fields.seed, fields.deadline_ms, fields.stream), (Some(u64::MAX), Some(10), Some(false)));
        assert_eq!(fields.stop.unwrap(), ["a", "b"]);
        assert_eq!(read(br#"{"stop": "x"}"#).unwrap().stop.unwrap(), ["x"]);
        assert!(read(br#"{"seed": null, "stop": null}"#).unwrap().given.is_empty());
    }

    #[test]
    fn every_field_of_the_wrong_type_is_named() {
        for (name, expected) in EXPECTED {
            for wrong in ["{}", "[{}]", "-1.5e3", "\"\"", "true", "[null]", "{\"a\": [1]}"] {
                if (name, wrong) == ("messages", "[{}]") {
                    continue; // Says more: see `messages`.
                }
                let body = format!("{{\"{name}\": {wrong}}}");
                if let Err(fault) = read(body.as_bytes()) {
                    assert_eq!(fault.message, format!("`{name}` must be {expected}"), "{body}");
                }
            }
            assert!(read(format!("{{\"{name}\": {{}}}}").as_bytes()).is_err(), "{name} may not be an object");
        }
        for body in [
            r#"{"max_tokens": 1.0}"#,
            r#"{"max_tokens": -1}"#,
            r#"{"max_tokens": 4294967296}"#,
            r#"{"max_tokens": "5"}"#,
        ] {
            assert_eq!(refusal(body), format!("`max_tokens` must be {A_COUNT}"), "{body}");
        }
        let many = format!("{{\"stop\": [{}]}}", ["\"x\""; 17].join(","));
        assert_eq!(refusal(&many), "`stop` must be a text or a list of at most 16 texts");
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        assert!(refusal(r#"{"promt": "x"}"#).starts_with("there is no field `promt`: the fields are prompt, messages"));
        assert!(refusal(&format!("{{\"{}\\n\": 1}}", "x".repeat(100))).len() < 400);
        assert_eq!(refusal(r#"{"prompt": "a", "prompt": "b"}"#), "the field `prompt` is there twice");
        for body in ["[]", "\"x\"", "1", "null", "true"] {
            assert!(refusal(body).starts_with("the body must be a JSON object"), "{body}");
        }
        for (body, place) in [
            ("", "line 1, column 0"),
            ("{", "line 1, column 1"),
            ("{\"prompt\": \"x\"} x", "line 1, column 17"),
            ("{\"prompt\":\n \"x\",}", "line 2, column 6"),
            ("{'prompt': 1}", "line 1, column 2"),
            ("{\"prompt\": \"\u{1}\"}", "line 1, column 13"),
        ] {
            assert_eq!(refusal(body), format!("the body is not valid JSON ({place})"), "{body}");
        }
        assert!(read(b"{\"prompt\": \"\xff\"}").is_err());
        assert!(refusal(&"[".repeat(100_000)).starts_with("the body must be"));
        assert!(refusal(&format!("{{\"prompt\": {}", "[".repeat(100_000))).starts_with("`prompt` must be"));
    }
}
