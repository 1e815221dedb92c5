//! The messages of a body: role and content, and what else templates ask for, as it is.

use crate::conversation::ROLES;
use crate::http::json::wrong;
use crate::{ChatMessage, Content};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use stageline_base::limits::MAX_CHAT_VALUES;
use stageline_template::{Json, Reader};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

/// What a conversation says, oldest first.
#[derive(Debug)]
pub(super) struct Messages(pub Vec<ChatMessage>);

impl JsonSchema for Messages {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Messages".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let part = json!({
            "type": "object", "required": ["text"],
            "properties": { "type": { "type": "string", "const": "text" }, "text": { "type": "string" } },
        });
        let content = json!({
            "description": "A text, or a list of texts, each a part; absent only where the message calls tools.",
            "type": ["string", "array", "null"], "items": part,
        });
        let message = json!({
            "type": "object", "required": ["role"], "properties": { "role": { "enum": ROLES }, "content": content },
            "description": "What else it has (`tool_calls`, `tool_call_id`, `name` and so on) is handed to the template as it is.",
            "maxProperties": MAX_FIELDS + 2, "anyOf": [{ "required": ["content"] }, { "required": ["tool_calls"] }],
        });
        let title = r#"a list of {"role": "user", "content": a text}"#;
        json_schema!({ "title": title, "type": "array", "minItems": 1, "items": message })
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(List { left: &Cell::new(MAX_CHAT_VALUES) }).map(Messages)
    }
}

/// Reads the list of messages.
#[derive(Clone, Copy)]
struct List<'a> {
    /// How many JSON values there may still be beside the texts.
    left: &'a Cell<usize>,
}

impl List<'_> {
    /// Takes one value of those that there may be.
    fn one<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| wrong("`messages` has too many values"))?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<ChatMessage>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<ChatMessage>, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = list.next_element_seed(Message { of: self, place: messages.len() })? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// Reads the message at `place`.
#[derive(Clone, Copy)]
struct Message<'a> {
    of: List<'a>,
    place: usize,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ChatMessage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ChatMessage, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ChatMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ChatMessage, A::Error> {
        let (of, place) = (self.of, self.place);
        let mut role: Option<String> = None;
        let mut content = None;
        let mut more: Vec<(String, Json)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            of.one::<A::Error>()?;
            let there = match name.as_str() {
                "role" => role.is_some(),
                "content" => content.is_some(),
                name => more.iter().any(|(known, _)| known == name),
            };
            if there {
                let name: String = name.chars().take(40).collect();
                return Err(wrong(format!("`{}` of message {place} is there twice", name.escape_debug())));
            }
            match name.as_str() {
                "role" => role = Some(map.next_value()?),
                "content" => content = Some(map.next_value_seed(ContentOf(self))?),
                _ if more.len() == MAX_FIELDS => {
                    return Err(wrong(format!("message {place} has more than {MAX_FIELDS} fields")));
                }
                _ => more.push((name, map.next_value_seed(Reader(of.left))?)),
            }
        }
        let Some(role) = role.filter(|role| ROLES.contains(&role.as_str())) else {
            return Err(wrong(format!("`role` of message {place} must be one of {}", ROLES.join(", "))));
        };
        let calls = more.iter().any(|(name, value)| name == "tool_calls" && *value != Json::Null);
        if content.is_none() && !calls {
            return Err(wrong(format!("message {place} has no `content`: send a text, a list of parts, or null")));
        }
        Ok(ChatMessage { role, content, more })
    }
}

/// Most fields of a message beside role and content.
const MAX_FIELDS: usize = 32;

/// Reads the content of the message.
struct ContentOf<'a>(Message<'a>);

impl<'de> DeserializeSeed<'de> for ContentOf<'_> {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentOf<'_> {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of parts or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_string()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
        Ok(Content::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let Message { of, place } = self.0;
        let mut parts = Vec::new();
        while let Some(part) = list.next_element::<Part>()? {
            of.one::<A::Error>()?;
            let kind = part.kind.as_deref().unwrap_or("text");
            if kind != "text" {
                let kind: String = kind.chars().take(40).collect();
                let words = format!("the content of message {place} has a part of type `{}`", kind.escape_debug());
                return Err(wrong(format!("{words}: only `text` is taken")));
            }
            let Some(text) = part.text else {
                return Err(wrong(format!("the content of message {place} has a part of type `text` without `text`")));
            };
            parts.push(text);
        }
        Ok(Content::Parts(parts))
    }
}

/// One part of a content. What else it has is left out: a part of another type is refused by its type.
#[derive(serde::Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
}

/// What a template is told of tools: a list of objects.
#[derive(Debug)]
pub(super) struct Tools(pub Json);

impl JsonSchema for Tools {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Tools".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let title = format!("a list of objects, of at most {MAX_CHAT_VALUES} values in all");
        json_schema!({ "title": title, "type": "array", "items": { "type": "object" } })
    }
}

impl<'de> Deserialize<'de> for Tools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Reader(&Cell::new(MAX_CHAT_VALUES)).deserialize(deserializer)? {
            Json::List(tools) if tools.iter().all(|tool| matches!(tool, Json::Object(_))) => {
                Ok(Tools(Json::List(tools)))
            }
            _ => Err(D::Error::custom("no list of tools")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::Fields;
    use crate::http::json;
    use crate::{ChatMessage, Content};

    fn read(messages: &str) -> Result<Vec<ChatMessage>, String> {
        let body = format!("{{\"messages\": {messages}}}");
        let fields = json::read::<Fields>(body.as_bytes());
        fields.map(|fields| fields.messages.unwrap().0).map_err(|fault| fault.message)
    }

    #[test]
    fn what_templates_ask_for_is_kept_as_it_was_sent() {
        let messages = read(
            r#"[{"role": "developer", "content": "d"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"z": 1, "a": {"y": 18446744073709551615}}}], "name": null},
            {"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": "", "tool_call_id": "x"}]"#,
        )
        .unwrap();
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["developer", "user", "assistant", "assistant", "tool"]);
        assert_eq!(messages[1].content, Some(Content::Parts(vec!["a".into(), "b".into()])));
        assert_eq!((&messages[2].content, &messages[3].content), (&Some(Content::Null), &None));
        let names: Vec<&str> = messages[2].more.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tool_calls", "name"]);
        let calls = format!("{:?}", messages[2].more[0].1);
        assert!(calls.find("\"z\"") < calls.find("\"a\"") && calls.contains("18446744073709551615"), "{calls}");
    }

    #[test]
    fn what_is_wrong_with_a_message_is_said() {
        let many = format!("[{}]", ["{\"role\": \"user\", \"content\": \"\"}"; 50_001].join(","));
        let deep = format!("[{{\"role\": \"user\", \"content\": \"\", \"x\": {}", "[".repeat(100_000));
        for (messages, words) in [
            ("[{}]", "`role` of message 0 must be one of system, developer, user, assistant, tool"),
            (r#"[{"role": "ipython", "content": ""}]"#, "`role` of message 0"),
            (r#"[{"role": "user"}]"#, "message 0 has no `content`"),
            (r#"[{"role": "user", "tool_calls": null}]"#, "message 0 has no `content`"),
            (
                r#"[{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url"}]}]"#,
                "message 1 has a part of type `image_url`",
            ),
            (r#"[{"role": "user", "content": [{"type": "text"}]}]"#, "without `text`"),
            (r#"[{"role": "user", "role": "user", "content": ""}]"#, "`role` of message 0 is there twice"),
            (r#"[{"role": "user", "content": "", "x": 1, "x": 2}]"#, "`x` of message 0 is there twice"),
            (r#"[{"role": "user", "content": 1}]"#, "`messages` must be a list"),
            ("[1]", "`messages` must be a list"),
            (&many, "`messages` has too many values"),
            (&deep, "not valid JSON"),
        ] {
            let said = read(messages).unwrap_err();
            assert!(said.contains(words), "{messages:.80}: {said}");
        }
        let tools = |json: &str| {
            let fields = json::read::<Fields>(format!("{{\"tools\": {json}}}").as_bytes());
            fields.map(|fields| fields.tools.is_some())
        };
        assert_eq!((tools("null"), tools("[]"), tools("[{}]")), (Ok(false), Ok(true), Ok(true)));
        assert!(tools("[1]").is_err() && tools("{}").is_err());
    }
}
